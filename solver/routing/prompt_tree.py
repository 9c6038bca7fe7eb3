"""Where an engine's blocks end in prompts: a tree of these by their marks, its nodes have blocks.

Rules:
- prompts that begin alike are one path of a tree up to their last common mark, and what an engine
  has of that is there for all of them (`solver.routing.block_tree`);
- how many of the engine's blocks end before that mark is reckoned by the tokens in each of the
  prompt's own blocks, until a second prompt shows it: what is told of both is of what both begin
  with, and what is not, is not;
- but no further than that text can go: an engine may have the same blocks for prompts that a router
  tells apart (it trims them, puts the same before them, passes over a field). These are each such
  prompt's by itself, and never the beginning of all that have the few marks before, or none;
- where they part is remembered when the blocks are gone (`Partings`), as it is the text's, not the
  cache's;
- marks are kept as far as there are blocks; what is told is kept wherever it has a place.

Must not know: whether blocks are all that an engine has, and what they save.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from sys import maxsize

from solver.routing.block_tree import ANSWER, FEW, MOST_AT_A_NODE, Node, Where
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, Partings, common_marks

# A block may end so much after a mark, in a router's blocks, about three tokens: one that ends *at*
# a mark counts there, though how many tokens a text has is rounded.
LATE = 0.02
# A prompt's beginning may have so many times the tokens that it has by the prompt's length.
DENSEST = 2.0


class Path(list[Node]):
    """Where a prompt goes along, as far as there are nodes; `behind` the blocks that are told."""

    def __init__(self, root: Node, prompt: Beginnings, behind: int) -> None:
        super().__init__((root,))
        self.prompt, self.behind = prompt, behind


class PromptTree:
    """Of blocks of so many tokens; see the module.

    Attributes:
        where: each block, and at which node it is.
        nodes: how many there are beside the root.
        partial: for some of what was told there was no place.
    """

    def __init__(self, partings: Partings, block_tokens: int) -> None:
        self._partings, self._block_tokens = partings, block_tokens
        self._root, self.nodes = Node(b"", b"", None, 0, 0, 0.0), 0
        self.where, self.partial = Where(), False
        # Where the last blocks that were told were put, and whose they were.
        self._last: Node | None = None
        self._prompt: Beginnings | None = None

    def put(self, blocks: Sequence[int], parent: int | None, prompt: Beginnings) -> bool:
        """They follow `parent` in a prompt, or begin it; whether it is known where that is."""
        return self._goes_on(blocks, parent, prompt) or self._place(blocks, parent, prompt)

    def take(self, block: int) -> bool:
        """It is there no more; whether it was."""
        nodes = self.where.pop(block)
        for node in nodes:
            node.take(block)
            if node.blocks:
                self._shrink(node)
            else:
                self._prune(node)
        return bool(nodes)

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
        path = self._path(prompt, begin + len(blocks), parent)
        if parent is not None:
            self._take_before(parent, begin - 1, path)
        self._lay(blocks, begin, path)
        self._prune(path[-1])
        return True

    def _number_after(self, parent: int | None) -> int | None:
        """Which block of its prompt the one after `parent` is."""
        if parent is None:
            return 0
        node = self.where.get(parent)
        return None if node is None else node.number_of(parent) + 1

    def _path(self, prompt: Beginnings, behind: int, parent: int | None) -> Path:
        """The nodes that a prompt goes along; of its tails, the one that has `parent`."""
        node, marks, at = self._root, prompt.marks, 0
        path = Path(node, prompt, behind)
        while at < len(marks):
            child = node.child(marks[at : at + NAME_BYTES])
            if child is None or not marks.startswith(child.names, at):
                return path
            path.append(child)
            at += len(child.names)
            node = child
        before = None if parent is None else self.where.get(parent)
        if before is None or before.parent is not node or not before.is_tail_of(prompt.tail):
            before = node.child(prompt.tail)
        if before is not None:
            path.append(before)
        return path

    def _take_before(self, parent: int, number: int, path: Path) -> None:
        """Block `number` and all before it are this prompt's, too, whosever they were."""
        at = self._at(number, 0, path)
        now = self.where.all(parent)
        if any(one in path for one in now) or self._share(parent, number, path, at):
            return
        chain, node = list[Node](), now[0]
        while node not in path and node.parent is not None:
            chain.append(node)
            node = node.parent
        at = 0
        for one in reversed(chain):
            for n, block in enumerate(tuple(one.blocks[: number + 1 - one.first]), one.first):
                if block is not None:
                    at = self._put(block, n, self._at(n, at, path), path)

    def _new(
        self, key: bytes | int, names: bytes, parent: Node, end: int, until: int, pace: float
    ) -> Node:
        self.nodes += 1
        return Node(key, names, parent, end, until, pace)

    def _at(self, number: int, at: int, path: Path) -> int:
        """Which of a path's nodes, from `at` on, block `number` is of: a new one, if of none."""
        while at == len(path) or path[at].until <= number:
            if at == len(path):
                path.append(self._further(path))
            elif at + 1 < len(path) or not self._grow(path[at], path):
                at += 1
        return at

    def _further(self, path: Path) -> Node:
        """What a prompt goes along behind a path."""
        node, marks = path[-1], path.prompt.marks
        at = node.end * NAME_BYTES
        if node.is_tail or at >= len(marks):
            return self._tail(node, path.prompt.tail)
        key = marks[at : at + NAME_BYTES]
        child = node.child(key)
        if child is None:
            pace = path.prompt.block_tokens / self._block_tokens
            end, until = self._reach(node.end + 1, node.until, pace, path)
            return self._new(key, marks[at : end * NAME_BYTES], node, end, until, pace)
        if not marks.startswith(child.names, at):
            self._split(child, marks, common_marks(child.names, marks, at))
        return child

    def _tail(self, node: Node, name: int) -> Node:
        """Another one: what is behind a prompt's last mark, of several answers each by itself."""
        if node.is_tail:
            assert node.parent is not None
            name, node = name + ANSWER, node.parent
        while (found := node.child(name)) is not None and found.blocks:
            name += ANSWER
        return found or self._new(name, b"", node, node.end, maxsize, node.pace)

    def _reach(self, end: int, first: int, pace: float, path: Path) -> tuple[int, int]:
        """At which mark a node ends, `end` or later, that has blocks from `first` on."""
        far = bisect_right(MARKS, (first + MOST_AT_A_NODE) / pace - LATE)
        wanted = bisect_left(MARKS, path.behind / pace - LATE) + 1
        end = max(end, min(far, wanted, len(path.prompt.marks) // NAME_BYTES))
        return end, max(first, _before(end, pace))

    def _grow(self, node: Node, path: Path) -> bool:
        """A node that nothing follows goes on as a prompt does; whether it can."""
        marks = path.prompt.marks
        if node.children or node.is_tail or node.parent is None:
            return False
        end, until = self._reach(node.end, node.first, node.pace, path)
        if end <= node.end or until <= node.until:
            return False
        node.names += marks[node.end * NAME_BYTES : end * NAME_BYTES]
        node.end, node.until = end, until
        return True

    def _shrink(self, node: Node) -> None:
        """What a node knows of prompts is little more than it has blocks of."""
        behind = node.first + len(node.blocks)
        if node.until <= 2 * behind or node.children or node.is_tail or node.parent is None:
            return
        end = max(node.begin + 1, bisect_left(MARKS, behind / node.pace - LATE) + 1)
        if end < node.end:
            node.names = node.names[: (end - node.begin) * NAME_BYTES]
            node.end, node.until = end, max(behind, _before(end, node.pace))

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
        self.where.move(own, node, lower)

    def _cut(self, node: Node, marks: bytes, end: int) -> int:
        """How many blocks end before a node's mark, the one numbered `end` of these."""
        known = self._partings.shared(marks[: end * NAME_BYTES], self._block_tokens)
        if known is not None:
            return known
        assert node.parent is not None, "all prompts have the root's marks"
        return max(node.parent.until, min(_before(end, node.pace), node.until))

    def _lay(self, blocks: Sequence[int], begin: int, path: Path) -> None:
        """Put them to a prompt's nodes: all of a node's at once where they are new."""
        at, number, behind = 0, begin, begin + len(blocks)
        new = self._are_new(blocks)
        while number < behind:
            at = self._at(number, at, path)
            node = path[at]
            part = blocks[number - begin : node.until - begin]
            begins = not node.blocks
            if new and node.extend(number, part):
                self.where.put(part, node)
                if begins:
                    self._learn(node, path.prompt)
                number += len(part)
            else:
                at = self._put(part[0], number, at, path)
                number += 1
        self._last, self._prompt = path[at], path.prompt

    def _put(self, block: int, number: int, at: int, path: Path) -> int:
        """Put it to one of a path's nodes, from `at` on; where what follows it may be."""
        now = self.where.all(block)
        if now and (any(one in path for one in now) or self._share(block, number, path, at)):
            return at
        while path[at].has(number):  # whose is it, as it is not this prompt's?
            if path[at].is_tail:
                path[at] = self._tail(path[at], path.prompt.tail)
                continue
            self._part(path[at], number, path[at + 1] if at + 1 < len(path) else None)
            at = self._at(number, at + 1, path)
        node = path[at]
        begins = not node.blocks
        if node in self.where.all(block):
            return at
        if not node.put(number, block):
            self.partial = True
        elif not self.where.add(block, node):
            node.take(block)
            self.partial = True
        elif begins:
            self._learn(node, path.prompt)
        return at

    def _share(self, block: int, number: int, path: Path, at: int) -> bool:
        """A block that is known of other prompts is this one's, too, and so are all before it.

        Whether they are so for all that begin as these do.
        """
        nodes = self.where.all(block)[:FEW]
        common, now = max(
            ((_common(one, path), one) for one in nodes), key=lambda pair: pair[0].end
        )
        goes_on = now.is_tail and not path[at].is_tail  # from what was an answer
        node, first = path[at] if goes_on else common, now.first
        if now.number_of(block) != number:
            return False
        if node.blocks and node.first + len(node.blocks) != first:
            return False
        if not goes_on and number >= self._most_before(common, path.prompt):
            return False
        if len(node.blocks) + number + 1 - first > MOST_AT_A_NODE:
            return False
        if self.where.has_any(now.blocks[: number + 1 - first], node):
            return False
        own = now.take_first(number + 1 - first)
        node.extend(first, own)
        self.where.move(own, now, node)
        node.missing += own.count(None)
        node.until = max(node.until, number + 1)
        self._prune(now)
        return True

    def _most_before(self, node: Node, prompt: Beginnings) -> float:
        """How many blocks can end in what all of a node's prompts begin with, at most."""
        if not node.end:
            return 0.0
        next_mark = MARKS[min(node.end, len(MARKS) - 1)]
        return DENSEST * next_mark * prompt.block_tokens / self._block_tokens

    def _part(self, node: Node, number: int, child: Node | None) -> None:
        """Prompts that go on by `child` have another block `number` than those that `node` has."""
        others = node.others(child)
        if len(others) != 1:
            return  # it is several others', who part later
        (other,) = others
        if self.where.has_any(node.blocks[number - node.first :], other):
            return
        if not other.blocks or other.first == node.first + len(node.blocks):
            own = node.take_from(number)
            other.put_first(number, own)
            self.where.move(own, node, other)
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
        self._shrink(node)

    def along(self, marks: bytes, tail: int | None) -> Iterator[tuple[Node, int]]:
        """Where a prompt goes along, and the first block of each that it does not share."""
        node: Node | None = self._root
        at = 0
        while at < len(marks):
            assert node is not None
            node = node.child(marks[at : at + NAME_BYTES])
            if node is None:
                return
            if not marks.startswith(node.names, at):
                end = node.begin + common_marks(node.names, marks, at)
                yield node, max(node.first, self._cut(node, marks, end))
                return
            yield node, maxsize
            at += len(node.names)
        if tail is not None and node is not None and (node := node.child(tail)) is not None:
            yield node, maxsize


def _before(end: int, pace: float) -> int:
    """How many blocks end before the mark numbered `end`, as well as is known."""
    return int((MARKS[end - 1] + LATE) * pace)


def _common(node: Node, path: Path) -> Node:
    """Where prompts that have a node part from a path; the root, at the latest."""
    while node not in path:
        assert node.parent is not None
        node = node.parent
    return node
