// Requests. Each stream ends on the server as soon as it is aborted here.

import {say} from "./ui.js";

/** What the server refused; `field` is the control that it is about. */
export class Refused extends Error {
  constructor(sentence, field = "") {
    super(sentence);
    this.field = field;
  }
}

const post = (path, body, signal) => fetch(path, {
  method: "POST", signal, headers: {"Content-Type": "application/json"}, body: JSON.stringify(body),
});

async function checked(answer) {
  if (answer.ok) return answer;
  let found = {error: await answer.text()};
  try { found = JSON.parse(found.error); } catch { /* a plain sentence */ }
  throw new Refused(found.error || `The server answered ${answer.status}. Try again.`, found.field);
}

/** Read JSON lines; `onUpdate` sees those on the way, the last one is returned. */
async function stream(path, body, signal, onUpdate) {
  const answer = await checked(await post(path, body, signal));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = null;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      last = JSON.parse(line);
      if (last.error) throw new Refused(last.error, last.field);
      onUpdate?.(last);
    }
  }
  if (!last || last.step || last.waiting) throw new Refused("The connection was lost. Try again.");
  return last;
}

export async function blob(path, body) {
  return (await checked(await post(path, body))).blob();
}

export async function json(path) {
  return (await checked(await fetch(path))).json();
}

/** Where a request stands, in words. */
export function progress(update, what = "Drawing") {
  if (update.waiting) {
    const {before, seconds} = update.waiting;
    const people = before === 1 ? "1 person" : `${before} people`;
    return before ? `${people} before you, about ${seconds} s` : `Your turn comes in about ${seconds} s`;
  }
  return update.step ? `${what}: step ${update.step} of ${update.steps}` : "";
}

/**
 * Requests of one place on the page, of which only the newest counts: `ask` aborts the one before, or with `patient`
 * lets it finish first and drops those in between, for sliders that are dragged.
 */
export class Latest {
  constructor(path, {patient = false, quiet = false} = {}) {
    Object.assign(this, {path, patient, quiet, controller: null, next: null});
  }

  get isBusy() { return Boolean(this.controller); }

  stop() {
    this.next = null;
    this.controller?.abort();
    this.controller = null;
  }

  /** Calls `onDone` with the answer, unless another request came in between. */
  async ask(body, {onUpdate, onDone, onError, what}) {
    if (this.patient && this.controller) {
      this.next = [body, {onUpdate, onDone, onError, what}];
      return;
    }
    this.stop();
    const controller = this.controller = new AbortController();
    const isNewest = () => this.controller === controller;
    try {
      const done = await stream(this.path, body, controller.signal, (update) => {
        if (!isNewest()) return;
        if (!this.quiet) say(progress(update, what));
        onUpdate?.(update);
      });
      if (isNewest()) onDone(done);
    } catch (error) {
      if (isNewest() && error.name !== "AbortError") {
        const sentence = error instanceof Refused ? error.message : "The server cannot be reached. Try again.";
        if (!onError?.(error, sentence)) say(sentence, true);
      }
    } finally {
      if (isNewest()) {
        this.controller = null;
        const next = this.next;
        this.next = null;
        if (next) this.ask(...next);
      }
    }
  }
}
