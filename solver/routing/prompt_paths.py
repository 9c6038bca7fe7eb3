"""Where prompts go along in a tree of their marks: nodes are made, grow, part and go.

Rules:
- what prompts begin with alike is one node up to their last common mark, and then each has its own;
- marks are kept little further than there are blocks: a node that nothing follows grows with what
  is told, and shrinks with what goes;
- prompts are used when they are told of, their beginnings last: an engine that needs room takes
  first what was used least lately, and of that the ends; what it takes is what was;
- where a block ends in a prompt is reckoned by the tokens in each of the prompt's own blocks, or as
  was learnt (`Partings`).

Must not know: whose blocks are whose (`solver.routing.prompt_tree`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from sys import maxsize

from solver.routing.block_places import Where
from solver.routing.block_tree import ANSWER, FEW, MOST_AT_A_NODE, Node
from solver.routing.marks import MARKS, NAME_BYTES, Beginnings, Partings, common_marks

# A block may end so much after a mark, in a router's blocks, about three tokens: one that ends *at*
# a mark counts there, though how many tokens a text has is rounded.
LATE = 0.02
# Of one that is told piece by piece, marks are kept for so many times the blocks so far.
AHEAD = 1.5


class Path(list[Node]):
    """Where a prompt goes along, as far as there are nodes; `behind` the blocks that are told.

    `overlaps`: of these nodes the second has blocks of the first, too. `pace`: the engine's
    blocks in each of a router's, by its length or as has been seen where it parts.
    """

    def __init__(self, root: Node, prompt: Beginnings, behind: int, pace: float) -> None:
        super().__init__((root,))
        self.prompt, self.behind, self.pace = prompt, behind, pace
        self.overlaps = set[tuple[Node, Node]]()


class Paths:
    """Of an engine's prompts, with blocks of so many tokens; see the module.

    Attributes:
        where: each block, and at which nodes it is.
        nodes: how many there are beside the root.
        holes: blocks that are missing in all of them.
    """

    def __init__(self, partings: Partings, block_tokens: int) -> None:
        self._partings, self._block_tokens = partings, block_tokens
        self._root, self.nodes, self._answers = Node(b"", b"", None, 0, 0, 0.0), 0, 0
        self.where, self.holes = Where(), self._root.holes

    def path(self, prompt: Beginnings, behind: int, parent: int | None) -> Path:
        """The nodes that a prompt goes along; of its tails, the one that has `parent`."""
        node, marks, at = self._root, prompt.marks, 0
        path = Path(node, prompt, behind, prompt.block_tokens / self._block_tokens)
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

    def at(self, number: int, at: int, path: Path) -> int:
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
            return self.tail(node, path.prompt.tail)
        key = marks[at : at + NAME_BYTES]
        child = node.child(key)
        if child is None:
            end, until = _reach(node.end + 1, node.until, path.pace, path.behind, marks)
            return self._new(key, marks[at : end * NAME_BYTES], node, end, until, path.pace)
        if not marks.startswith(child.names, at):
            self._split(child, marks, common_marks(child.names, marks, at))
        return child

    def has_less(self, path: Path, end: int, most: int) -> None:
        """A prompt has at most so many blocks up to its mark numbered `end`."""
        if end:
            path.pace = min(path.pace, most / MARKS[end - 1])

    def tail(self, node: Node, name: int) -> Node:
        """Another one: what is behind a prompt's last mark, of several answers each by itself."""
        if node.is_tail:
            assert node.parent is not None
            node = node.parent
        found = node.child(name)
        if found is not None and not found.blocks:
            return found
        if found is not None:
            self._answers += 1
            name += ANSWER * self._answers
        return self._new(name, b"", node, node.end, maxsize, node.pace)

    def _new(
        self, key: bytes | int, names: bytes, parent: Node, end: int, until: int, pace: float
    ) -> Node:
        self.nodes += 1
        node = Node(key, names, parent, end, until, pace)
        node.use_before(self._root)
        return node

    def _grow(self, node: Node, path: Path) -> bool:
        """A node that nothing follows goes on as a prompt does; whether it can."""
        marks = path.prompt.marks
        if node.children or node.is_tail or node.parent is None:
            return False
        behind = path.behind * AHEAD
        end, until = _reach(node.end, node.first, node.pace, behind, marks)
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
        lower.unlink()
        lower.use_before(node)

    def _cut(self, node: Node, marks: bytes, end: int) -> int:
        """How many blocks end before a node's mark, the one numbered `end` of these."""
        known = self._partings.shared(marks[: end * NAME_BYTES], self._block_tokens)
        if known is not None:
            return known
        assert node.parent is not None, "all prompts have the root's marks"
        return max(node.parent.until, min(_before(end, node.pace), node.until))

    def prune(self, node: Node, upto: Node | None = None) -> None:
        """It, if nothing is there any more, and those before that are there for nothing else."""
        while node is not upto and not node.children and node.parent is not None:
            if self.where.has_own(node):
                break
            self.nodes -= 1
            node.unlink()
            parent = node.leave()
            assert parent is not None
            node = parent
        self._shrink(node)

    def use(self, node: Node) -> None:
        """A prompt that has it, and all before it, is used."""
        root, one = self._root, node
        while one is not root and one.newer is one.parent:
            one = one.newer
        if one is root:
            return  # it was the last one that was
        while node is not root:
            assert node.parent is not None
            node.unlink()
            node.use_before(root)
            node = node.parent

    def age(self, node: Node) -> None:
        """An engine that needed room has taken some of it: nobody was used less lately.

        So were those before it that were used with it, as it is the end of theirs: some of them.
        """
        root, chain = self._root, [node]
        if node.parent is None or root.newer is node:
            return
        while len(chain) < FEW and (one := chain[-1]).newer is one.parent is not root:
            chain.append(one.newer)
        for one in chain:
            one.unlink()
        oldest = root.newer
        for one in chain:
            one.use_before(oldest)

    def pushed_out(self, count: int, busy: Iterable[Node]) -> dict[Node, int]:
        """Who loses so many blocks that are used least lately, and how many each keeps.

        Not who is `busy`, nor what is before that.
        """
        kept, node, held = dict[Node, int](), self._root.newer, set[Node]()
        for one in busy:
            before: Node | None = one
            while before is not None and before not in held:
                held.add(before)
                before = before.parent
        while count > 0 and node is not self._root:
            there = len(node.blocks) - node.missing
            if there and node not in held:
                kept[node] = max(0, there - count)
                count -= there
            node = node.newer
        return kept

    def ends_before(self, marks: bytes, pace: float) -> int:
        """How many blocks end before the last of these marks, as well as is known."""
        known = self._partings.shared(marks, self._block_tokens)
        return _before(len(marks) // NAME_BYTES, pace) if known is None else known

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


def _reach(end: int, first: int, pace: float, behind: float, marks: bytes) -> tuple[int, int]:
    """At which mark a node ends, `end` or later, whose first block is `first`, and until which."""
    far = bisect_right(MARKS, (first + MOST_AT_A_NODE) / pace - LATE)
    wanted = bisect_left(MARKS, behind / pace - LATE) + 1
    end = max(end, min(far, wanted, len(marks) // NAME_BYTES))
    return end, max(first, _before(end, pace))


def _before(end: int, pace: float) -> int:
    """How many blocks end before the mark numbered `end`, as well as is known."""
    return int((MARKS[end - 1] + LATE) * pace)
