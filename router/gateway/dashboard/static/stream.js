// The gateway's events: connects again by itself, and says how it stands.

const SILENT_MS = 4000; // several frames have not come: whatever the socket says, it is dead
const AGAIN_MS = 1500;

export class Stream {
  #source = null; // the one that delivers
  #next = null; // is to take its place
  #heard = -Infinity;
  #names = [];
  #alarm = 0;
  #handlers;
  #told;

  // handlers: by event, what to do with its data; told(live): called whenever that changes.
  constructor(handlers, told) {
    this.#handlers = handlers;
    this.#told = told;
    // Nobody looks at a hidden page: the gateway need not work for it.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
  }

  // Ask for the single slots of these workers from now on.
  want(names) {
    if ((this.#source || this.#next) && names.join("\n") === this.#names.join("\n")) return;
    this.#names = [...names];
    if (!document.hidden) this.#open();
  }

  // The one before delivers until the new one does, so that nothing is missed in between.
  #open() {
    this.#next?.close();
    const query = new URLSearchParams(this.#names.map((name) => ["slots", name]));
    const source = new EventSource(`makespan/v1/events?${query}`);
    for (const [kind, handle] of Object.entries(this.#handlers)) {
      source.addEventListener(kind, (event) => {
        this.#hear(source);
        handle(JSON.parse(event.data));
      });
    }
    source.onerror = () => this.#lose(source);
    this.#next = source;
    this.#wait(SILENT_MS);
  }

  #hear(source) {
    if (source === this.#next) {
      this.#source?.close();
      [this.#source, this.#next] = [source, null];
    }
    this.#heard = performance.now();
    if (!this.#next) this.#wait(SILENT_MS);
    this.#told(true);
  }

  #lose(source) {
    source.close();
    if (source === this.#source) this.#source = null;
    if (!this.#source) this.#told(false);
    this.#wait(AGAIN_MS);
  }

  #wait(milliseconds) {
    clearTimeout(this.#alarm);
    this.#alarm = setTimeout(() => {
      if (performance.now() - this.#heard > AGAIN_MS) this.#told(false); // else only the next one does not come
      this.#open();
    }, milliseconds);
  }

  #close() {
    clearTimeout(this.#alarm);
    this.#source?.close();
    this.#next?.close();
    this.#source = this.#next = null;
  }
}
