// Lists that are one stop for Tab, and are walked along with the arrows, Home and End.

export class Walk {
  #list;
  #selector;

  constructor(list, selector) {
    this.#list = list;
    this.#selector = selector;
    list.addEventListener("keydown", (event) => this.#step(event));
    list.addEventListener("focusin", ({ target }) => {
      if (target.matches(selector)) this.refresh(target);
    });
  }

  // After every change of the list: of all its stops one is in Tab's way.
  refresh(chosen = null) {
    const stops = this.#stops();
    const one = chosen ?? stops.find((stop) => stop.tabIndex === 0 && stop.hasAttribute("tabindex")) ?? stops[0];
    for (const stop of stops) stop.tabIndex = stop === one ? 0 : -1;
  }

  #stops() {
    return [...this.#list.querySelectorAll(this.#selector)].filter((stop) => !stop.closest("[hidden]"));
  }

  #step(event) {
    const stops = this.#stops();
    const here = stops.indexOf(document.activeElement);
    if (here < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const there = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: stops.length - 1 }[event.key];
    if (there === undefined) return;
    event.preventDefault();
    stops[there]?.focus();
  }
}
