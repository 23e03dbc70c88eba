"""The gateway's own messages, to stderr: text for people, JSON for collectors."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import orjson

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, logger, process, message, and the exception when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class TextFormatter(logging.Formatter):
    """`12:34:56.789 info  fastgw.server: message`; a message is one line, whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        text = f"{stamp} {record.levelname.lower():<7} {record.process} {record.name}: {message}"
        return text + "\n" + self.formatException(record.exc_info) if record.exc_info else text


def configure(level: str = "info", format: str = "text") -> None:
    """Sets up the logger `fastgw`; calling it again (after a reload) changes it."""
    root = logging.getLogger("fastgw")
    root.setLevel(LEVELS[level])
    root.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root.handlers[:] = [handler]
