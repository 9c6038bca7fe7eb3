"""Where an engine's blocks end in prompts: a tree of these by their marks, its nodes have blocks.

Rules:
- prompts that begin alike are one path of a tree up to their last common mark, and what an engine
  has of that is there for all of them (`solver.routing.block_tree`);
- how many of the engine's blocks end before that mark is reckoned by the tokens in each of the
  prompt's own blocks, until a second prompt shows it: what is told of both is of what both begin
  with, and what is not, is not;
- that is remembered when the blocks are gone (`Partings`), as it is the text's, not the cache's.

Must not know: whether blocks are all that an engine has, and what they save.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from sys import maxsize

from solver.routing.block_tree import MOST_AT_A_NODE, Node, Where
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, Partings, common_marks
from solver.routing.tiers import Tiers

# A block may end so much after a mark, in a router's blocks, about three tokens: one that ends *at*
# a mark counts there, though how many tokens a text has is rounded.
LATE = 0.02


class PromptTree:
    """Of blocks of so many tokens; see the module.

    Attributes:
        where: each block, and at which node it is.
        nodes: how many there are beside the root.
    """

    def __init__(self, partings: Partings, tiers: Tiers, block_tokens: int) -> None:
        """What has no place any more is forgotten in `tiers`, too."""
        self._partings, self._tiers, self._block_tokens = partings, tiers, block_tokens
        self._root, self.nodes = Node(b"", b"", None, 0, 0, 0.0), 0
        self.where = Where()
        # Where the last blocks that were told were put, and whose they were.
        self._last: Node | None = None
        self._prompt: Beginnings | None = None

    def put(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """They follow `parent` in a prompt, or begin it; whether it is known where that is."""
        return self._goes_on(blocks, parent, prompt) or self._place(blocks, parent, prompt)

    def take(self, block: int) -> bool:
        """It is there no more; whether it was."""
        node = self.where.pop(block)
        if node is None:
            return False
        node.take(block)
        if not node.blocks:
            self._prune(node)
        return True

    def _goes_on(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """Whether they have their place behind those that were told last, as most have."""
        node = self._last
        if node is None or prompt is not self._prompt or not node.blocks:
            return False
        number = node.first + len(node.blocks)
        if node.blocks[-1] != parent or number + len(blocks) > node.until:
            return False
        if not self._are_new(blocks) or not node.extend(number, blocks):
            return False
        self.where.put(blocks, node)
        return True

    def _are_new(self, blocks: Sequence[int]) -> bool:
        return len(set(blocks)) == len(blocks) and self.where.lacks(blocks)

    def _place(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """Put them where they are in a prompt; whether that is known."""
        begin = self._number_after(parent)
        if begin is None:
            return False
        path = self._path(prompt)
        before = None if parent is None else self.where.get(parent)
        if parent is not None and before is not None and before not in path:
            at = self._at(begin - 1, 0, path, prompt)
            self._share(begin - 1, before, path, at)
        self._lay(blocks, begin, path, prompt)
        self._prune(path[-1])
        return True

    def _path(self, prompt: Beginnings) -> list[Node]:
        """Where a prompt goes along, up to its last mark, or beyond if something is there."""
        node, marks, at = self._root, prompt.marks, 0
        path = [node]
        while at < len(marks):
            key = marks[at : at + NAME_BYTES]
            child = node.child(key)
            if child is None:
                pace = prompt.block_tokens / self._block_tokens
                far = bisect_right(MARKS, (node.until + MOST_AT_A_NODE) / pace - LATE)
                end = max(node.end + 1, min(far, len(marks) // NAME_BYTES))
                until = max(node.until, int((MARKS[end - 1] + LATE) * pace))
                child = self._new(key, marks[at : end * NAME_BYTES], node, end, until, pace)
            elif not marks.startswith(child.names, at):
                self._split(child, marks, common_marks(child.names, marks, at))
            path.append(child)
            at += len(child.names)
            node = child
        tail = node.child(prompt.tail)
        return path if tail is None else [*path, tail]

    def _new(
        self, key: bytes | int, names: bytes, parent: Node, end: int, until: int, pace: float
    ) -> Node:
        self.nodes += 1
        return Node(key, names, parent, end, until, pace)

    def _split(self, node: Node, marks: bytes, count: int) -> None:
        """A prompt of these `marks` parts from its prompts behind its first `count`."""
        cut, names = self._cut(node, marks, node.begin + count), node.names
        own, children, first = node.take_from(cut), node.children, max(cut, node.first)
        end, until, node.until = node.end, node.until, cut
        node.end, node.names, node.children = node.begin + count, names[: count * NAME_BYTES], None
        if not own and not children:
            return
        rest = names[len(node.names) :]
        lower = self._new(rest[:NAME_BYTES], rest, node, end, until, node.pace)
        for child in (children or {}).values():
            lower.adopt(child)
        lower.put_first(first, own)
        self.where.put(_present(own), lower)

    def _cut(self, node: Node, marks: bytes, end: int) -> int:
        """How many blocks end before a node's mark, the one numbered `end` of these."""
        known = self._partings.shared(marks[: end * NAME_BYTES], self._block_tokens)
        if known is not None:
            return known
        assert node.parent is not None, "all prompts have the root's marks"
        about = int((MARKS[end - 1] + LATE) * node.pace)
        return max(node.parent.until, min(about, node.until))

    def _lay(self, blocks: Sequence[int], begin: int, path: list[Node], prompt: Beginnings) -> None:
        """Put them to a prompt's nodes: all of a node's at once where they are new."""
        at, number, behind = 0, begin, begin + len(blocks)
        new = self._are_new(blocks)
        while number < behind:
            at = self._at(number, at, path, prompt)
            node = path[at]
            part = blocks[number - begin : node.until - begin]
            begins = not node.blocks
            if new and node.extend(number, part):
                self.where.put(part, node)
                if begins:
                    self._learn(node, prompt)
                number += len(part)
            else:
                self._put(part[0], number, at, path, prompt)
                number += 1
        self._last, self._prompt = path[at], prompt

    def _at(self, number: int, at: int, path: list[Node], prompt: Beginnings) -> int:
        """Which of a prompt's nodes, from `at` on, block `number` is of."""
        while at == len(path) or path[at].until <= number:
            if at == len(path):
                last = path[-1]
                path.append(self._new(prompt.tail, b"", last, last.end, maxsize, last.pace))
            else:
                at += 1
        return at

    def _number_after(self, parent: int | None) -> int | None:
        """Which block of its prompt the one after `parent` is."""
        if parent is None:
            return 0
        node = self.where.get(parent)
        return None if node is None else node.number_of(parent) + 1

    def _put(self, block: int, number: int, at: int, path: list[Node], prompt: Beginnings) -> None:
        now = self.where.get(block)
        if now is not None:
            if now not in path:
                self._share(number, now, path, at)
            return
        while path[at].has(number):  # whose is it, as it is not this prompt's?
            if path[at].is_tail:
                return
            self._part(path[at], number, path[at + 1] if at + 1 < len(path) else None)
            at = self._at(number, at + 1, path, prompt)
        node = path[at]
        begins = not node.blocks
        if node.put(number, block):
            self.where.put((block,), node)
            if begins:
                self._learn(node, prompt)

    def _share(self, number: int, now: Node, path: list[Node], at: int) -> None:
        """A block that is known of other prompts is this one's, too, and so are all before it."""
        common = now.parent
        while common is not None and common not in path:
            common = common.parent
        if common is None:
            return
        goes_on = now.is_tail and not path[at].is_tail  # from what was an answer
        node = path[at] if goes_on else common
        if number < now.first or (node.blocks and node.first + len(node.blocks) != now.first):
            return
        first, own = now.first, now.take_first(number + 1 - now.first)
        if node.extend(first, own):
            self.where.put(_present(own), node)
            node.missing += own.count(None)
            node.until = max(node.until, number + 1)
        else:
            for lost in _present(own):
                self.where.pop(lost)
                self._tiers.pop(lost, None)
        self._prune(now)

    def _part(self, node: Node, number: int, child: Node | None) -> None:
        """Prompts that go on by `child` have another block `number` than those that `node` has."""
        others = node.others(child)
        if len(others) != 1:
            return  # it is several others', who part later
        (other,) = others
        if not other.blocks or other.first == node.first + len(node.blocks):
            own = node.take_from(number)
            other.put_first(number, own)
            self.where.put(_present(own), other)
            node.until = number

    def _learn(self, node: Node, prompt: Beginnings) -> None:
        """A node's first block has come: are all before it what its prompts share with others?"""
        parent, number = node.parent, node.first
        if parent is None or not parent.end:
            return
        marks = prompt.marks[: parent.end * NAME_BYTES]
        known = self._partings.shared(marks, self._block_tokens)
        if known == number or any(
            one.blocks and one.first == number for one in parent.others(node)
        ):
            self._partings.learn(marks, self._block_tokens, number)
            parent.until = number

    def _prune(self, node: Node) -> None:
        while not node.blocks and not node.children and node.parent is not None:
            self.nodes -= 1
            parent = node.leave()
            assert parent is not None
            node = parent

    def along(self, marks: bytes, tail: int | None) -> Iterator[tuple[Node, int]]:
        """Where a prompt goes along, and the first block of each that it does not share."""
        node: Node | None = self._root
        assert node is not None
        yield node, maxsize
        at = 0
        while at < len(marks):
            node = node.child(marks[at : at + NAME_BYTES])
            if node is None:
                return
            if not marks.startswith(node.names, at):
                end = node.begin + common_marks(node.names, marks, at)
                yield node, max(node.first, self._cut(node, marks, end))
                return
            yield node, maxsize
            at += len(node.names)
        if tail is not None and (node := node.child(tail)) is not None:
            yield node, maxsize


def _present(blocks: Iterable[int | None]) -> list[int]:
    return [block for block in blocks if block is not None]
