// Of the requests with targets that ended over the last minute, the share that kept them.

const SPAN_S = 60;

export class Goodput {
  #heard = []; // counts at the beginning of the span and since, the oldest first

  hear({ at, targets }) {
    const last = this.#heard.at(-1);
    if (last && last.kept + last.missed > targets.kept + targets.missed) this.#heard = []; // another gateway
    this.#heard.push({ at, ...targets });
    while (this.#heard.length > 2 && this.#heard[1].at <= at - SPAN_S) this.#heard.shift();
  }

  // NaN where none has ended.
  share() {
    const [first, last] = [this.#heard[0], this.#heard.at(-1)];
    const kept = last.kept - first.kept;
    const all = kept + last.missed - first.missed;
    return all ? kept / all : NaN;
  }
}
