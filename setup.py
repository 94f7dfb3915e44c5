"""Compiles the hot files with Cython where there is a C compiler.

Everything else is in pyproject.toml. The same `.py` files run interpreted and compiled: a `.pxd`
beside each adds the C types. Without a compiler, or with ISTHMUS_INTERPRETED=1, nothing is built
and Isthmus works all the same, slower.
"""

import os
from pathlib import Path

from setuptools import Extension, setup

SOURCE = Path("src")


def extensions() -> list[Extension]:
    if os.environ.get("ISTHMUS_INTERPRETED"):
        return []
    from Cython.Build import cythonize

    beside = [path.with_suffix(".py") for path in sorted(SOURCE.rglob("*.pxd"))]
    hot = [path for path in beside if path.exists()]  # the others hold C functions for these
    modules = [
        Extension(
            ".".join(path.relative_to(SOURCE).with_suffix("").parts),
            [str(path)],
            extra_compile_args=["-O2"] if os.name == "posix" else [],
        )
        for path in hot
    ]
    compiled: list[Extension] = cythonize(
        modules,
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,
            "auto_pickle": False,  # nobody pickles a connection: 250 KiB of code in every process
        },
    )
    for module in compiled:
        module.optional = True  # only now, as Cython makes new objects and forgets it
    return compiled


setup(ext_modules=extensions(), options={"build_ext": {"parallel": os.cpu_count() or 1}})
