"""Talks to a running server: plot, predict, evaluate.

>>> from client import DigitClient
>>> DigitClient().predict("seven.png")[0].digit         # a server must run: make start
7
"""

from client.api import DigitClient
from client.errors import (
    ClientError,
    NotOffered,
    Refused,
    ServerFailed,
    ServerUnreachable,
    Unauthorized,
)
from client.prediction import Prediction

__all__ = [
    "ClientError",
    "DigitClient",
    "NotOffered",
    "Prediction",
    "Refused",
    "ServerFailed",
    "ServerUnreachable",
    "Unauthorized",
]
