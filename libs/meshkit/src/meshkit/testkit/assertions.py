"""Assertions on rich errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from meshkit.errors import DOMAIN, MeshError, from_rpc_error, rich_status_of


class ExpectedError:
    """Filled when the block of `raises_rich` has ended."""

    error: MeshError


def rich_error(error: grpc.RpcError) -> MeshError:
    """The error, after asserting that it came with a `google.rpc.Status` with this domain."""
    assert isinstance(error, grpc.aio.AioRpcError)  # noqa: S101  an assertion helper
    status = rich_status_of(error)
    assert status is not None, f"no rich status came with {error!r}"  # noqa: S101
    text = str(status)
    assert DOMAIN in text, f"no ErrorInfo of {DOMAIN} in {text}"  # noqa: S101
    return from_rpc_error(error)


@contextmanager
def raises_rich(
    code: grpc.StatusCode, reason: str, *, field: str | None = None
) -> Iterator[ExpectedError]:
    """Asserts that the block's call fails with this code and reason ("STALE_FENCE").

    With `field`, asserts that a BadRequest names that field.
    """
    expected = ExpectedError()
    try:
        yield expected
    except grpc.aio.AioRpcError as error:
        found = expected.error = rich_error(error)
    else:
        raise AssertionError(f"the call did not fail; expected {code.name} {reason}")
    assert (found.code, found.reason_name) == (code, reason), str(found)  # noqa: S101
    if field is not None:
        fields = [violation.field for violation in found.violations]
        assert field in fields, f"{field} is not among {fields}"  # noqa: S101
