// What is on the page at one time.

import { make } from "./elements.js";
import { swatch } from "./marks.js";
import { Plots } from "./plots.js";

/** One field of the comparison, the groups that are chosen for pictures, and the plots. Panels draw into it. */
export class Sheet {
  #chosen;
  /** @type {(() => void)[]} */
  #updates = [];
  #main;
  #contents;

  /**
   * @param {PageData} data
   * @param {Field} field
   * @param {HTMLElement} main  Where panels go.
   * @param {HTMLElement} contents  Where links to them go.
   */
  constructor(data, field, main, contents) {
    this.data = data;
    this.field = field;
    this.plots = new Plots();
    /** Columns in which a group has a value. */
    this.columns = field.columns.filter(({ key }) => field.groups.some((group) => group.values[key]));
    /** @type {Record<string, Column>} */
    this.column = Object.fromEntries(field.columns.map((column) => [column.key, column]));
    this.#chosen = new Set(field.shown);
    this.#main = main;
    this.#contents = contents;
  }

  /** Whether any group has an accuracy matrix. */
  get measured() {
    return this.field.groups.some((group) => group.mean);
  }

  /**
   * Begins a panel.
   *
   * @param {string} id
   * @param {string} title
   */
  panel(id, title) {
    this.#main.append(make("section", { "aria-labelledby": id }, make("h2", { id }, title), make("div")));
    this.#contents.append(make("li", {}, make("a", { href: `#${id}` }, title)));
    return /** @type {HTMLElement} */ (this.#main.lastElementChild?.lastElementChild);
  }

  /**
   * Whether a group is in pictures that have no room for all.
   *
   * @param {number} index
   */
  shows(index) {
    return this.#chosen.has(index);
  }

  /** The groups in such pictures. */
  picked() {
    return this.field.groups.filter((_, index) => this.shows(index));
  }

  /**
   * Draws something now, and again whenever other groups are chosen.
   *
   * @param {() => void} update
   */
  follow(update) {
    this.#updates.push(update);
    update();
  }

  /** Puts boxes on the page that choose groups. */
  choices() {
    const { groups, ranked } = this.field;
    const { most } = this.data;
    if (groups.length < 2) return;
    const boxes = groups.map((_, index) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.addEventListener("change", () => {
        if (box.checked) this.#chosen.add(index);
        else this.#chosen.delete(index);
        for (const update of this.#updates) update();
      });
      return box;
    });
    const refresh = () => {
      const full = this.picked().filter(({ bound }) => !bound).length >= most;
      for (const [index, box] of boxes.entries()) {
        box.disabled = !box.checked && full && !groups[index].bound;
        box.checked = this.shows(index);
      }
    };
    const list = groups.map((group, index) => make("label", {}, boxes[index], swatch(group), group.short));
    this.follow(refresh);
    const title =
      groups.filter(({ bound }) => !bound).length <= most
        ? "Methods in the pictures"
        : `Methods in the pictures, ${most} at most; at first the one with the highest ${this.column[ranked].title} of each method`;
    this.#main.append(
      make("fieldset", { id: "choices" }, make("legend", {}, title), make("div", { class: "choices" }, ...list)),
    );
  }

  /** Removes all panels. */
  close() {
    this.plots.clear(this.#main);
    this.#contents.replaceChildren();
  }
}
