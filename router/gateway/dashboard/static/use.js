// What slots did: *utilization* is prefill and decode over all slot-time, *useful* the same over all but
// empty.

const SPAN_S = 60;
const STATES = ["prefill", "decode", "stalled", "paused", "waiting", "empty"];

// Of workers since what was heard of each before; a worker of which nothing was, or that has begun anew,
// does not count.
export function spentSince(before, workers) {
  const spent = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const { name, seconds } of workers) {
    const earlier = before.get(name)?.seconds;
    if (!seconds || !earlier) continue;
    const parts = STATES.map((state) => (seconds[state] ?? 0) - (earlier[state] ?? 0));
    if (parts.some((part) => part < 0)) continue;
    STATES.forEach((state, index) => { spent[state] += parts[index]; });
  }
  const busy = spent.prefill + spent.decode;
  const held = busy + spent.stalled + spent.paused + spent.waiting;
  const all = held + spent.empty;
  return { all, utilization: all ? busy / all : NaN, useful: held ? busy / held : NaN };
}

// Utilization of the last minute, of one worker or of several.
export class Use {
  #heard = new Map(); // by worker: what was told of it, a second apart, the oldest first

  hear({ at, workers }) {
    const known = this.#heard;
    this.#heard = new Map();
    for (const worker of workers) {
      let lines = known.get(worker.name) ?? [];
      this.#heard.set(worker.name, lines);
      if (!worker.seconds) {
        lines.length = 0; // what it did meanwhile nobody saw
        continue;
      }
      if (lines.length && STATES.some((state) => (worker.seconds[state] ?? 0) < (lines.at(-1).seconds[state] ?? 0))) lines.length = 0;
      if (lines.length > 1 && at - lines.at(-2).at < 1) lines.pop(); // the latest counts, and one a second
      lines.push({ at, seconds: worker.seconds });
      while (lines.length > 2 && lines[1].at <= at - SPAN_S) lines.shift();
    }
  }

  // NaN where nothing was heard.
  of(...workers) {
    const first = new Map(workers.map(({ name }) => [name, this.#heard.get(name)?.[0]]));
    return spentSince(first, workers).utilization;
  }
}
