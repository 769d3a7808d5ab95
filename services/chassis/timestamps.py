"""Times on the wire."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def stamp(moment: datetime) -> Timestamp:
    """The protobuf form of a moment, which must have a zone."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made
