"""Builds the Cython modules of fastgw/_core; everything else is in pyproject.toml.

FASTGW_DEBUG=1     bounds checks, line tracing hooks and -O0 -g
FASTGW_ANNOTATE=1  writes the annotated HTML beside each .pyx
FASTGW_SANITIZE=1  AddressSanitizer and UndefinedBehaviorSanitizer
FASTGW_ONLY=a,b    builds only the named modules of _core
FASTGW_BUILT=1     builds none: an editable installation would build again what `build_ext --inplace` has built
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTGW_DEBUG") == "1"
SANITIZE = os.environ.get("FASTGW_SANITIZE") == "1"
ONLY = {name for name in os.environ.get("FASTGW_ONLY", "").split(",") if name}

flags = ["-O0", "-g"] if DEBUG else ["-O2", "-g0", "-fno-semantic-interposition"]
link: list[str] = []
if SANITIZE:
    sanitizers = "-fsanitize=address,undefined"
    flags = ["-O1", "-g", "-fno-omit-frame-pointer", sanitizers, "-fno-sanitize-recover=undefined"]
    link = [sanitizers]
flags += ["-Wno-unused-function", "-Wno-unreachable-code"]

# Modules that need more than a C compiler: header, libraries, and the Debian package that has them.
NEEDS = {
    "h2": ("nghttp2/nghttp2.h", ["nghttp2"], "libnghttp2-dev"),
    "h2_upstream": ("nghttp2/nghttp2.h", ["nghttp2"], "libnghttp2-dev"),
    "h2_wire": ("nghttp2/nghttp2.h", ["nghttp2"], "libnghttp2-dev"),
    "tls": ("openssl/ssl.h", ["ssl", "crypto"], "libssl-dev"),
    "tls_server": ("openssl/ssl.h", ["ssl", "crypto"], "libssl-dev"),
    "tls_client": ("openssl/ssl.h", ["ssl", "crypto"], "libssl-dev"),
}


def has_header(header: str) -> bool:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    probe = [*compiler, "-E", "-x", "c", "-"]
    code = f"#include <{header}>\n".encode()
    return subprocess.run(probe, input=code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


extensions = []
for path in sorted(Path("fastgw/_core").glob("*.pyx")):
    if os.environ.get("FASTGW_BUILT") == "1" or (ONLY and path.stem not in ONLY):
        continue
    header, libraries, package = NEEDS.get(path.stem, ("", [], ""))
    if header and not has_header(header):
        print(f"fastgw is built without {path.stem}: {header} is not there (Debian: apt-get install {package})")
        continue
    extensions.append(
        Extension(
            f"fastgw._core.{path.stem}",
            [str(path)],
            extra_compile_args=flags,
            extra_link_args=link,
            include_dirs=["fastgw/_core"],
            depends=[str(header) for header in Path("fastgw/_core").glob("*.h")],
            libraries=libraries,
        )
    )

setup(
    ext_modules=cythonize(
        extensions,
        nthreads=0 if len(extensions) < 2 else (os.cpu_count() or 1),
        annotate=os.environ.get("FASTGW_ANNOTATE") == "1",
        build_dir=os.environ.get("FASTGW_BUILD_DIR"),
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "embedsignature": True,
            "freethreading_compatible": False,
        },
    )
)
