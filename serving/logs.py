"""How the service logs: BentoML's lines, or one JSON object a line; with the request that a line is about."""

from __future__ import annotations

import logging
import warnings

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from serving.call import Call, current
from serving.config import LogFormat

OF_BENTOML = ("component", "levelname_bracketed", "service_name", "trace_msg")  # what its filter adds to a record

access = logging.getLogger("bentoml.access")


class AboutCall(logging.Filter):
    """Adds the request and its trace; comes after BentoML's own filter, which knows of neither."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current.get()
        if call is None:
            record.__dict__.pop("request_id", None)
            return True
        record.request_id, record.trace_id = call.request_id, call.trace_id
        trace = f", trace {call.trace_id}" if call.trace_id is not None else ""
        record.trace_msg = f" (request {call.request_id}{trace})"
        return True


def set_up(log_format: LogFormat) -> None:
    """Of this process, after BentoML has set up its own."""
    warnings.filterwarnings("ignore", module="PIL")  # an image may bring tens of thousands, and they are no log lines
    for twice in ("uvicorn.error", "circus"):  # which have the root's handler themselves
        logging.getLogger(twice).propagate = False
    for handler in {*logging.getLogger().handlers, *logging.getLogger("bentoml").handlers}:
        if not any(isinstance(each, AboutCall) for each in handler.filters):
            handler.addFilter(AboutCall())
        if log_format is LogFormat.JSON:
            handler.setFormatter(
                JsonFormatter(
                    "{levelname}{name}{message}",
                    style="{",
                    timestamp=True,
                    rename_fields={"levelname": "level", "name": "logger"},
                    reserved_attrs=[*RESERVED_ATTRS, *OF_BENTOML],
                )
            )


def log_access(call: Call, status: int, seconds: float) -> None:
    milliseconds = round(seconds * 1e3, 3)
    fields = {"method": call.method, "path": call.path[:200], "status": status, "milliseconds": milliseconds}
    access.info("%(method)s %(path)r %(status)d in %(milliseconds)s ms", fields, extra=fields)
