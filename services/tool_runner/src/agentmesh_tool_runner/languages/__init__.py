"""Languages that programs are run in: what there is for each here, and how a program is started."""

from .catalog import Language
from .compile_cache import CompileCache
from .program import Program
from .programs import Programs
from .toolchains import LanguageNotInstalledError, LanguageSupport, Toolchains

__all__ = [
    "CompileCache",
    "Language",
    "LanguageNotInstalledError",
    "LanguageSupport",
    "Program",
    "Programs",
    "Toolchains",
]
