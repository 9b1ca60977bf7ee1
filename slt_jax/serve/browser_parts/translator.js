// The model in its worker, from the page's side.
export class Translator {
  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.asked = new Map(); // {done, failed} by number
    this.count = 0;
    this.worker.onmessage = ({ data: { number, done, failed } }) => {
      const waits = this.asked.get(number);
      this.asked.delete(number);
      if (failed === undefined) waits.done(done);
      else waits.failed(new Error(failed));
    };
    this.worker.onerror = (event) => {
      for (const waits of this.asked.values()) waits.failed(new Error(event.message ?? "worker.js"));
      this.asked.clear();
    };
  }

  ask(task, given) {
    return new Promise((done, failed) => {
      this.asked.set(this.count, { done, failed });
      this.worker.postMessage({ number: this.count, task, given });
      this.count += 1;
    });
  }

  // Load the model.
  open() {
    return this.ask("open");
  }

  // What comes is another signer's.
  begin(language) {
    return this.ask("begin", language);
  }

  // {settled, pending, ended, time} after the next frames.
  push(frames) {
    return this.ask("push", frames);
  }

  finish() {
    return this.ask("finish");
  }
}
