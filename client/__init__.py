"""Talks to a running server: plot, predict, explain, evaluate.

>>> from client import DigitClient
>>> DigitClient().predict("seven.png")[0].digit         # a server must run: make start
7
"""

from client.api import DigitClient
from client.errors import (
    ClientError,
    NotOffered,
    Refused,
    ServerBusy,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from client.explain import Explanation
from client.prediction import Prediction

__all__ = [
    "ClientError",
    "DigitClient",
    "Explanation",
    "NotOffered",
    "Prediction",
    "Refused",
    "ServerBusy",
    "ServerFailed",
    "ServerUnreachable",
    "Unauthorized",
]
