"""All rows, in the order of the page."""

from __future__ import annotations

from .rows_answer import ANSWERS
from .rows_budget import BUDGET
from .rows_delivery import DELIVERY
from .rows_endpoint import ENDPOINT
from .rows_enrolment import ENROLMENT
from .rows_globus import GLOBUS
from .rows_group import GROUP
from .rows_input import INPUT
from .rows_ledger import LEDGER
from .rows_log import LOG
from .rows_privacy import PRIVACY
from .rows_s3 import S3
from .rows_secrecy import SECRECY
from .rows_server import SERVER_ROWS
from .rows_storage import STORAGE
from .table import Row

__all__ = ["ROWS"]

ROWS: tuple[Row, ...] = tuple(
    sorted(
        (
            *DELIVERY,
            *SERVER_ROWS,
            *ANSWERS,
            *STORAGE,
            *GROUP,
            *GLOBUS,
            *ENROLMENT,
            *SECRECY,
            *S3,
            *BUDGET,
            *LEDGER,
            *PRIVACY,
            *LOG,
            *INPUT,
            *ENDPOINT,
        ),
        key=lambda row: (int(row.id[1:].split("-")[0]), row.id),
    )
)
