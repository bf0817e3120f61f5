"""Generates, checks and releases the contracts, offline.

`generate` writes protos/gen/python. `check` fails on drift, lint and breaking changes. `release`
makes the present contracts the baseline that later changes are measured against.

The .proto files of other projects come out of installed packages: google/api and google/rpc from
googleapis-common-protos, buf/validate as the descriptor inside protovalidate.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from importlib.resources import files
from pathlib import Path
from typing import Any

import grpc_tools
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)

PROTOS = Path(__file__).resolve().parent.parent / "protos"
GENERATED = PROTOS / "gen" / "python"
BASELINE = PROTOS / "baseline.binpb"
VALIDATE = "buf/validate/validate.proto"
# What the public API says of itself at run time: generated code has no comments.
COMMENTS = "agentmesh/gateway/v1/comments.json"
PUBLIC = "agentmesh/gateway/v1/"
ALWAYS_NAMED = ("agentmesh.common.v1.ErrorReason", "agentmesh.common.v1.Role")


def sources() -> list[str]:
    """The contracts, as paths relative to protos/."""
    return sorted(p.relative_to(PROTOS).as_posix() for p in PROTOS.glob("agentmesh/**/*.proto"))


def protoc(*arguments: str) -> None:
    """Runs the pinned protoc; its messages name file, line and column."""
    bin_dir = Path(sys.executable).parent
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"--plugin={name}={bin_dir / name}" for name in PLUGINS]
    subprocess.run([*command, *arguments], check=True)


PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def write_dependencies(folder: Path) -> str:
    """Writes descriptor sets of everything the contracts import; returns protoc's argument."""
    from protovalidate._gen.buf.validate import validate_pb

    validate = descriptor_pb2.FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(validate.file.add())
    validate.file.add().ParseFromString(validate_pb.desc().proto.to_binary())
    (folder / "validate.binpb").write_bytes(validate.SerializeToString())

    wheel = metadata.distribution("googleapis-common-protos")
    include = Path(str(wheel.locate_file("")))
    well_known = Path(str(files(grpc_tools) / "_proto"))
    protoc(
        f"-I{include}",
        f"-I{well_known}",
        "--include_imports",
        f"--descriptor_set_out={folder / 'googleapis.binpb'}",
        "google/api/annotations.proto",
        "google/rpc/error_details.proto",
        "google/rpc/status.proto",
    )
    return f"--descriptor_set_in={folder / 'validate.binpb'}:{folder / 'googleapis.binpb'}"


def generate(target: Path) -> None:
    """Writes the Python package below `target`, which must exist."""
    for package in ("agentmesh", "buf"):
        shutil.rmtree(target / package, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        dependencies = write_dependencies(Path(scratch))
        protoc(
            f"-I{PROTOS}",
            dependencies,
            f"--python_out={target}",
            f"--mypy_out=quiet:{target}",
            *sources(),
            VALIDATE,
        )
        services = [s for s in sources() if s.endswith("_service.proto")]
        protoc(
            f"-I{PROTOS}",
            dependencies,
            f"--grpc_python_out={target}",
            f"--mypy_grpc_out=quiet:{target}",
            *services,
        )
    write_comments(target / COMMENTS)
    modules = [*target.glob("agentmesh/**/*_pb2.py"), *target.glob("buf/**/*_pb2.py")]
    for folder in {module.parent for module in modules}:
        (folder / "py.typed").touch()


def write_image(path: Path) -> None:
    """Writes the contracts with imports and comments as one descriptor set."""
    with tempfile.TemporaryDirectory() as scratch:
        protoc(
            f"-I{PROTOS}",
            write_dependencies(Path(scratch)),
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={path}",
            *sources(),
        )


def write_comments(path: Path) -> None:
    """Writes the comments of the public API, and of all messages that it uses, by full name."""
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "image.binpb"
        write_image(image)
        files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    wanted = public_names(files)
    comments = {
        name: text
        for file in files
        for name, text in file_comments(file).items()
        if name in wanted or name.rpartition(".")[0] in wanted
    }
    path.write_text(json.dumps(comments, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


def public_names(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> set[str]:
    """The services of the public API and all messages and enums that they use, by full name."""
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.Add(file)
    services = [
        pool.FindServiceByName(f"{file.package}.{service.name}")
        for file in files
        if file.name.startswith(PUBLIC)
        for service in file.service
    ]
    found = {service.full_name for service in services} | set(ALWAYS_NAMED)
    waiting = [
        message
        for service in services
        for method in service.methods
        for message in (method.input_type, method.output_type)
    ]
    while waiting:
        message = waiting.pop()
        if message.full_name in found or not message.full_name.startswith("agentmesh."):
            continue
        found.add(message.full_name)
        waiting += [field.message_type for field in message.fields if field.message_type]
        found |= {field.enum_type.full_name for field in message.fields if field.enum_type}
    return found


def file_comments(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """The leading comments of a file by the full name of what they stand before."""
    comments = {}
    for location in file.source_code_info.location:
        text = " ".join(line.strip() for line in location.leading_comments.splitlines()).strip()
        if text and (names := names_at(file, location.path)):
            comments[".".join([file.package, *names])] = text
    return comments


def names_at(file: descriptor_pb2.FileDescriptorProto, path: Sequence[int]) -> list[str]:
    """The names on the way to a place in a file; none for what is no named thing of the API."""
    place: Any = file
    names: list[str] = []
    for tag, position in zip(path[::2], path[1::2], strict=False):
        field = place.DESCRIPTOR.fields_by_number[tag]
        if field.name not in NAMED:
            return []
        place = getattr(place, field.name)[position]
        names.append(place.name)
    return names


NAMED = {"message_type", "nested_type", "enum_type", "value", "field", "service", "method"}


def differences(left: Path, right: Path) -> Iterable[str]:
    """Paths that differ between two generated trees."""
    kinds = {".py", ".pyi", ".json"}
    ours = {p.relative_to(left) for p in left.rglob("*.*") if p.suffix in kinds}
    theirs = {p.relative_to(right) for p in right.rglob("*.*") if p.suffix in kinds}
    yield from (str(p) for p in sorted(ours ^ theirs))
    for path in sorted(ours & theirs):
        if not filecmp.cmp(left / path, right / path, shallow=False):
            yield str(path)


def buf(*arguments: str) -> bool:
    """Runs buf in protos/; true if it found nothing."""
    return subprocess.run(["buf", *arguments], cwd=PROTOS, check=False).returncode == 0


def without_policy(image: bytes) -> list[str]:
    """The methods that do not say who may call them, of a serialized FileDescriptorSet: audience,
    and the role where users or services act for users."""
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(image).file
    for file in files:
        pool.Add(file)
    # The options are read with the classes of this very image, not with those that are installed.
    policy: Any = pool.FindExtensionByName("agentmesh.common.v1.policy")
    options = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("google.protobuf.MethodOptions")
    )
    message_factory.GetMessageClassesForFiles([policy.file.name], pool)
    found = []
    for file in files:
        for service in file.service if file.package.startswith("agentmesh.") else ():
            for method in service.method:
                raw = options.FromString(method.options.SerializeToString())
                stated: Any = raw.Extensions[policy]
                needs_role = stated.audience in (_PUBLIC, _INTERNAL)
                if not stated.audience or bool(stated.required_role) != needs_role:
                    found.append(f"{file.package}.{service.name}/{method.name}")
    return found


_PUBLIC, _INTERNAL = 2, 3  # of the enum Audience


def check() -> int:
    """Reports drift, lint findings, breaking changes and methods without a policy; 0 if there are
    none."""
    failures = []
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "gen"
        fresh.mkdir()
        generate(fresh)
        drift = list(differences(fresh, GENERATED))
        if drift:
            print("generated code is out of date; run `make protos`:", *drift, sep="\n  ")
            failures.append("drift")
        image = Path(scratch) / "image.binpb"
        write_image(image)
        open_methods = without_policy(image.read_bytes())
        if open_methods:
            print("nobody says who may call, and in which role:", *open_methods, sep="\n  ")
            failures.append("methods without a policy")
        if not buf("lint", str(image)):
            failures.append("lint")
        if not buf("format", "--diff", "--exit-code", "--path", "agentmesh", "."):
            failures.append("format")
        if not buf("breaking", str(image), "--against", str(BASELINE)):
            failures.append("breaking change; if it is meant, run `make protos-release`")
    print("protos: " + (", ".join(failures) if failures else "clean"))
    return len(failures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one of the commands; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, prog="protos.py")
    parser.add_argument("command", choices=("generate", "check", "release"))
    command = parser.parse_args(arguments).command
    if command == "generate":
        generate(GENERATED)
    elif command == "release":
        write_image(BASELINE)
    else:
        return check()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
