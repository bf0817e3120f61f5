"""Programs of every language run, are compiled once, and are refused where a compiler refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agentmesh_tool_runner.languages import (
    Language,
    LanguageNotInstalledError,
    Program,
    Toolchains,
    catalog,
)
from agentmesh_tool_runner.sandbox.backend import SandboxBackend
from agentmesh_tool_runner.sandbox.model import EndReason

from .conftest import COMPILED, Bench

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each writes its first argument, what it reads, and to standard error, and ends with 3.
PROGRAMS = {
    Language.PYTHON: (
        "import sys\nprint(sys.argv[1], input())\nprint('err', file=sys.stderr)\nsys.exit(3)"
    ),
    Language.SHELL: 'read line; echo "$1 $line"; echo err >&2; exit 3',
    Language.JAVASCRIPT: (
        "const line = require('fs').readFileSync(0, 'utf8').trim();\n"
        "console.log(process.argv[2], line); console.error('err'); process.exit(3);"
    ),
    Language.TYPESCRIPT: (
        "import { readFileSync } from 'node:fs';\nenum Code { Bad = 3 }\n"
        "const line: string = readFileSync(0, 'utf8').trim();\n"
        "console.log(process.argv[2], line); console.error('err'); process.exit(Code.Bad);"
    ),
    Language.JAVA: (
        "package shop.till;\nimport java.util.Scanner;\n/* class Wrong */ class Other { }\n"
        "public class Till { public static void main(String[] args) {\n"
        'System.out.println(args[0] + " " + new Scanner(System.in).nextLine());\n'
        'System.err.println("err"); System.exit(3); } }'
    ),
    Language.C: (
        "#include <stdio.h>\nint main(int count, char **words) { char line[9];\n"
        'if (scanf("%8s", line) == 1) printf("%s %s\\n", words[1], line);\n'
        'fprintf(stderr, "err\\n"); return 3 + 0 * count; }'
    ),
    Language.CPP: (
        "#include <iostream>\n#include <string>\nint main(int, char **words) {\n"
        "std::string line; std::getline(std::cin, line);\n"
        'std::cout << words[1] << " " << line << std::endl; std::cerr << "err\\n"; return 3; }'
    ),
    Language.GO: (
        'package main\nimport ("bufio"; "fmt"; "os")\nfunc main() {\n'
        "scanner := bufio.NewScanner(os.Stdin); scanner.Scan()\n"
        'fmt.Println(os.Args[1], scanner.Text()); fmt.Fprintln(os.Stderr, "err"); os.Exit(3) }'
    ),
    Language.RUST: (
        "fn main() { let mut line = String::new();\n"
        "std::io::stdin().read_line(&mut line).unwrap();\n"
        'println!("{} {}", std::env::args().nth(1).unwrap(), line.trim()); eprintln!("err");\n'
        "std::process::exit(3); }"
    ),
}
WRONG = {
    Language.TYPESCRIPT: ("let x: = 1;", "main.ts"),
    Language.JAVA: ("class Main { int x = nothing; }", "Main.java:1"),
    Language.C: ("int main() { return nothing; }", "main.c:1"),
    Language.CPP: ("int main() { return nothing; }", "main.cpp:1"),
    Language.GO: ("package main\nfunc main() { nothing() }", "main.go:2"),
    Language.RUST: ("fn main() { nothing() }", "main.rs:1"),
}


@pytest.mark.parametrize("language", list(Language), ids=lambda language: language.value)
async def test_programs_run_and_are_compiled_once(bench: Bench, language: Language) -> None:
    program = Program(language, code=PROGRAMS[language], args=("arg",), stdin=b"line\n")
    for each in (bench, bench.starved() if language in COMPILED else bench):
        ended = await each.run(program)
        assert (ended.stdout, ended.stderr) == ("arg line\n", "err\n")
        assert (ended.outcome.reason, ended.outcome.exit_code) == (EndReason.EXITED, 3)
        assert ended.outcome.usage.cpu_seconds > 0
        assert (ended.outcome.usage.stdout_bytes, ended.outcome.usage.stderr_bytes) == (9, 4)
    assert len(bench.kept) == (language in COMPILED)


@pytest.mark.parametrize("language", COMPILED, ids=lambda language: language.value)
async def test_what_does_not_compile(bench: Bench, language: Language) -> None:
    code, where = WRONG[language]
    ended = await bench.run(Program(language, code=code))
    assert ended.outcome.reason is EndReason.COMPILE_ERROR
    assert ended.outcome.exit_code == 1
    assert where in ended.stderr
    assert ended.stdout == ""
    assert ended.outcome.usage.stdout_bytes == 0
    assert bench.kept == []


async def test_modules_of_javascript(bench: Bench) -> None:
    code = "import os from 'os';\nconsole.log(typeof os.cpus, await 7);"
    assert (await bench.run(Program(Language.JAVASCRIPT, code=code))).stdout == "function 7\n"


@pytest.mark.parametrize(
    ("language", "path", "code", "beside", "other"),
    [
        (
            Language.C,
            "src/a.c",
            '#include "b.h"\nint main() { return B; }',
            "src/b.h",
            "#define B 5",
        ),
        (
            Language.TYPESCRIPT,
            "src/a.ts",
            "import { b } from './b'; process.exit(b)",
            "src/b.ts",
            "export const b: number = 5;",
        ),
        (Language.PYTHON, "src/a.py", "import b; raise SystemExit(b.B)", "src/b.py", "B = 5"),
    ],
)
async def test_a_file_of_the_workspace_with_what_lies_beside_it(
    bench: Bench, language: Language, path: str, code: str, beside: str, other: str
) -> None:
    workspace = await bench.workspace()
    await workspace.write_file(path, code.encode())
    for text, exit_code in ((other, 5), (other.replace("5", "6"), 6)):
        await workspace.write_file(beside, text.encode())
        ended = await bench.run(Program(language, path=path))
        assert (ended.outcome.exit_code, ended.stderr) == (exit_code, "")
    # What lies beside it is in no key, so nothing is kept.
    assert bench.kept == []


async def test_every_language_says_what_there_is(toolchains: Toolchains) -> None:
    support = {each.language: each for each in await toolchains.support()}
    assert list(support) == list(Language)
    for language, each in support.items():
        assert bool(each.version) != bool(each.remedy)
        if not each.remedy:
            assert bool(each.compiler) == (language in COMPILED)


async def test_a_language_that_is_not_installed(
    backend: SandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = catalog.Tool("rustc", ("no-such-rustc",), "rustc")
    monkeypatch.setitem(catalog.TOOLS, Language.RUST, (nowhere,))
    with pytest.raises(LanguageNotInstalledError, match="install rustc where") as caught:
        await Toolchains(lambda: backend).tools_of(Language.RUST)
    assert caught.value.language is Language.RUST


async def test_a_compiler_that_is_there_and_does_not_run(
    backend: SandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = catalog.Tool("cc", ("/bin/false",), "gcc")
    monkeypatch.setitem(catalog.TOOLS, Language.C, (broken,))
    with pytest.raises(LanguageNotInstalledError, match="/bin/false does not run"):
        await Toolchains(lambda: backend).tools_of(Language.C)


async def test_warnings_are_told_of_a_kept_program_too(bench: Bench) -> None:
    program = Program(Language.C, code="int main() { int unused; return 0; }")
    first, second = await bench.run(program), await bench.starved().run(program)
    assert "unused variable" in first.stderr
    assert second.stderr == first.stderr


async def test_limits_of_compilers(bench: Bench) -> None:
    """A limit that ends the compiler is that limit, and no fault of the program."""
    program = Program(Language.CPP, code=PROGRAMS[Language.CPP])
    ended = await bench.starved().run(program)
    assert ended.outcome.reason is EndReason.OUT_OF_MEMORY
    assert ended.outcome.detail == "while it was compiled"
    endless = "#include <iostream>\nint main() { while (true) std::cout.flush(); }"
    limits = replace(program.limits, cpu_seconds=1.5)
    ended = await bench.run(replace(program, code=endless, limits=limits))
    assert ended.outcome.reason is EndReason.CPU_TIMEOUT
    # What the compiler took is gone from what the program may take.
    assert ended.outcome.usage.cpu_seconds < 2.5
