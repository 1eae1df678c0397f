"""Pages to JSON, of messages that their service keeps and hands out again (`CallOptions.kept`): each is written once.

A message is told by being the very same object, so what is remembered is never another one's, nor out of date.
"""

from __future__ import annotations

from typing import Any, Final

from cachebox import LRUCache
from protobuf import DescFieldValueList, DescMessage

from taskman_sdk import codec
from taskman_sdk.contract import Method

__all__ = ["Rendering", "items_of"]

_SIZE: Final = 10_000  # some 1 KB each


def items_of(method: Method) -> str:
    """The list of messages that an RPC's answers begin with; empty when they do not."""
    for first in method.output.desc().fields:
        value = first.value
        is_list = isinstance(value, DescFieldValueList) and isinstance(value.element, DescMessage)
        return first.name if is_list else ""
    return ""


class Rendering:
    """The messages written last."""

    def __init__(self) -> None:
        self._known: LRUCache[int, tuple[codec.Message[Any], bytes]] = LRUCache(_SIZE)

    def to_json(self, page: codec.Message[Any], items: str) -> bytes:
        """What `codec.to_json` would write.

        Args:
            page: an answer that begins with a list of messages.
            items: the name of the list.
        """
        found: list[codec.Message[Any]] = getattr(page, items)
        written = b",".join([self._item(item) for item in found])
        names = [field.name for field in page.desc().fields[1:] if page.has_field(field.name)]
        others = {name: getattr(page, name) for name in names}
        empty, begins = codec.to_json(type(page)(**others)), len(f'{{"{items}":[')
        return empty[:begins] + written + empty[begins:]

    def _item(self, item: codec.Message[Any]) -> bytes:
        known: tuple[codec.Message[Any], bytes] | None = self._known.get(id(item))
        if known is None or known[0] is not item:
            known = item, codec.to_json(item)
            self._known.insert(id(item), known)
        return known[1]
