"""Trees of replies (OpenAssistant) to conversations: the best path, or all of them.

In a tree, each message has replies, which people ranked: rank 0 is the best. A path
goes from the question at the root to an answer. Messages may also lie in rows of their
own, each naming its parent; they are put together first.

Source: A. Köpf et al. (2023), "OpenAssistant Conversations", arXiv:2304.07327,
section 3.1; the layout is that of
https://github.com/LAION-AI/Open-Assistant/tree/f1e6ed9526f5/model/model_eval/manual/data
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from helpers.formats.results import Record, RejectError
from helpers.formats.turns import ROLES
from helpers.formats.values import Row, checked_text, is_null, kind_name, quoted

_MOST_PATHS = 10_000
_MOST_TURNS = 1_000


def paths(row: Row, rule: str) -> list[tuple[str, Row]]:
    """Return the paths of a tree by the rule "best" or "all", each with its place.

    Deleted messages end a path. Unranked replies come behind ranked ones, in the order
    of the file.
    """
    root = row.get("prompt")
    if not isinstance(root, Mapping):
        raise RejectError("prompt", f"is {kind_name(root)}, not a message with replies")
    found = _best(root) if rule == "best" else _all(root)
    if not found:
        raise RejectError("prompt.replies", "hold no answer")
    return [("", {"path": path}) for path in found]


def _best(root: Row) -> list[list[Row]]:
    path, node = [root], root
    while len(path) <= _MOST_TURNS and (replies := _replies(node)):
        node = replies[0]
        path.append(node)
    path = _cut(path)
    return [path] if path else []


def _all(root: Row) -> list[list[Row]]:
    found, stack = [], [[root]]
    while stack:
        path = stack.pop()
        replies = _replies(path[-1])
        if replies and len(path) <= _MOST_TURNS:
            stack += [[*path, reply] for reply in reversed(replies)]
        elif (path := _cut(path)) and path not in found:
            found.append(path)
        if len(found) > _MOST_PATHS:
            raise RejectError("prompt", f"has over {_MOST_PATHS:,} paths")
    return found


def _replies(node: Row) -> list[Row]:
    replies = node.get("replies")
    known = [
        reply
        for reply in (replies if isinstance(replies, list) else [])
        if isinstance(reply, Mapping) and not reply.get("deleted")
    ]
    return sorted(known, key=_rank)


def _rank(reply: Row) -> float:
    rank = reply.get("rank")
    known = isinstance(rank, int | float) and not is_null(rank)
    return rank if known else float("inf")


def _cut(path: list[Row]) -> list[Row]:
    """Leave out what stands behind the last answer."""
    while path and ROLES.get(str(path[-1].get("role"))) != "assistant":
        path = path[:-1]
    return path


def convert_path(row: Row) -> dict[str, Any]:
    """Return the messages of a path."""
    messages = []
    for index, node in enumerate(row["path"]):
        name = node.get("role")
        if str(name) not in ROLES:
            known = "known are prompter and assistant"
            raise RejectError(
                f"path[{index}].role", f"is {quoted([name])}, an unknown role: {known}"
            )
        content = checked_text(node.get("text"), f"path[{index}].text")
        messages.append({"role": ROLES[name], "content": content})
    return {"messages": messages}


def gather(records: Iterable[Record], notes: Counter[str]) -> Iterator[Record]:
    """Put messages in rows of their own together to trees.

    Yields:
        A record for each tree, numbered as its root's row, and one for each row that
        has no place in any: deleted, without a parent in the file, or no message.
    """
    nodes: dict[str, dict] = {}
    rows: dict[str, Record] = {}
    for record in records:
        value = record.value
        known = isinstance(value, Mapping) and isinstance(value.get("message_id"), str)
        if not known:
            problem = record.problem or "has no message_id"
            yield record._replace(value=None, problem=problem)
        elif value["message_id"] in nodes:
            yield record._replace(value=None, problem="repeats a message_id")
        elif value.get("deleted"):
            yield record._replace(value=None, problem="is a deleted message")
        else:
            nodes[value["message_id"]] = {**value, "replies": []}
            rows[value["message_id"]] = record
    yield from _trees(nodes, rows, notes)


def _trees(
    nodes: dict[str, dict], rows: dict[str, Record], notes: Counter[str]
) -> Iterator[Record]:
    roots = []
    for name, node in nodes.items():
        parent = node.get("parent_id")
        if is_null(parent):
            roots.append(name)
        elif isinstance(parent, str) and parent in nodes:
            nodes[parent]["replies"].append(node)
    placed: set[str] = set()
    for root in roots:
        stack = [nodes[root]]
        while stack:
            node = stack.pop()
            placed.add(node["message_id"])
            stack += node["replies"]
    if placed:
        notes["messages in rows of their own were put together to trees"] += len(placed)
    for name in nodes:
        if name in roots:
            yield rows[name]._replace(value={"prompt": nodes[name]})
        elif name not in placed:
            problem = "answers a message that is not in the file"
            yield rows[name]._replace(value=None, problem=problem)
