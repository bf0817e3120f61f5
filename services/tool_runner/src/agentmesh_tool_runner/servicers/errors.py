"""What the domain raises, as the contract says it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

import grpc
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError, from_rpc_error

from agentmesh_tool_runner.calls import StaleFenceError
from agentmesh_tool_runner.executions import (
    ExecutionIdInUseError,
    OutputRemovedError,
    UnknownExecutionError,
)
from agentmesh_tool_runner.generations.manifest import BrokenManifestError, MovedError
from agentmesh_tool_runner.generations.shelf import ShelfUnavailableError
from agentmesh_tool_runner.languages import LanguageNotInstalledError
from agentmesh_tool_runner.packages import (
    PackagesNotAllowedError,
    PackagesUnavailableError,
    UnknownPackageError,
)
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import (
    InterpreterUnavailableError,
    SandboxUnavailableError,
    WorkspaceFullError,
    WorkspaceInUseError,
)


@contextlib.contextmanager
def rich_errors() -> Iterator[None]:
    """Turns each error that the domain raises while the block runs into a rich status."""
    try:
        yield
    except SandboxUnavailableError as error:
        reason = errors_pb2.ERROR_REASON_SANDBOX_UNAVAILABLE
        message = f"no code can run: {error}"
        raise MeshError.precondition(reason, message, remedy=str(error)) from None
    except StaleFenceError as error:
        raise MeshError.stale_fence(error.run_id, error.fence, error.current_fence) from None
    except UnknownExecutionError as error:
        raise MeshError.not_found("execution", str(error)) from None
    except OutputRemovedError as error:
        raise MeshError.out_of_range(
            errors_pb2.ERROR_REASON_OUTPUT_REMOVED,
            str(error),
            oldest_chunk=str(error.oldest),
            next_chunk=str(error.head),
        ) from None
    except ExecutionIdInUseError as error:
        raise MeshError.already_exists("execution", str(error)) from None
    except InterpreterUnavailableError as error:
        reason = errors_pb2.ERROR_REASON_INTERPRETER_UNAVAILABLE
        raise MeshError.precondition(reason, str(error), remedy=str(error)) from None
    except LanguageNotInstalledError as error:
        raise MeshError.precondition(
            errors_pb2.ERROR_REASON_LANGUAGE_NOT_INSTALLED,
            str(error),
            language=error.language.value,
            remedy=error.remedy,
        ) from None
    except PackagesNotAllowedError as error:
        reason = errors_pb2.ERROR_REASON_PACKAGES_NOT_ALLOWED
        raise MeshError.precondition(reason, str(error), remedy=str(error)) from None
    except UnknownPackageError as error:
        raise MeshError.not_found("package", str(error)) from None
    except PackagesUnavailableError as error:
        raise MeshError.unavailable("package index", str(error)) from None
    except UnsafePathError as error:
        raise MeshError.invalid("path", str(error)) from None
    except FileNotFoundError as error:
        raise MeshError.not_found("file", str(error.filename)) from None
    except FileExistsError as error:
        raise MeshError.already_exists("file", str(error.filename)) from None
    except BrokenPipeError as error:
        raise MeshError.precondition(errors_pb2.ERROR_REASON_ALREADY_ENDED, str(error)) from None
    except WorkspaceInUseError as error:
        raise MeshError.precondition(errors_pb2.ERROR_REASON_SESSION_IN_USE, str(error)) from None
    except WorkspaceFullError as error:
        raise MeshError(
            grpc.StatusCode.RESOURCE_EXHAUSTED, errors_pb2.ERROR_REASON_QUOTA_EXCEEDED, str(error)
        ) from None
    except OSError as error:
        raise _of_files(error) from error
    except ShelfUnavailableError as error:
        raise MeshError.unavailable("conversation_store", str(error)) from None
    except BrokenManifestError as error:
        raise MeshError(
            grpc.StatusCode.DATA_LOSS, errors_pb2.ERROR_REASON_CORRUPT, str(error)
        ) from None
    except MovedError as error:
        raise MeshError.precondition(errors_pb2.ERROR_REASON_WORKSPACE_MOVED, str(error)) from None
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


# What a path can be wrong in that a caller or a program in the sandbox chose.
_WRONG_PATH: Final = frozenset(
    {
        errno.EACCES,
        errno.EBUSY,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENXIO,
        errno.EPERM,
        errno.EXDEV,
    }
)


def _of_files(error: OSError) -> Exception:
    """As the contract says it; the error itself if it is none of the caller's."""
    text = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if error.errno == errno.ESTALE:
        reason = errors_pb2.ERROR_REASON_ETAG_MISMATCH
        return MeshError(grpc.StatusCode.ABORTED, reason, text)
    return MeshError.invalid("path", text) if error.errno in _WRONG_PATH else error
