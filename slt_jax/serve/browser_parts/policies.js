// When words are settled: slt_jax/decoding/policies.py. Words are {text, probability}.

// Words that the last `n` hypotheses agree on, but for the last `hold`, up to the first less probable than `sure`.
export class LocalAgreement {
  constructor({ n = 2, hold = 0, sure = 0 } = {}) {
    Object.assign(this, { n, hold, sure });
  }

  settled(hypotheses) {
    if (hypotheses.length < this.n) return 0;
    const others = hypotheses.slice(-this.n, -1), last = hypotheses.at(-1);
    const agrees = (word, place) => word.probability >= this.sure && others.every((words) => words[place]?.text === word.text);
    const ready = last.slice(0, Math.max(last.length - this.hold, 0));
    const first = ready.findIndex((word, place) => !agrees(word, place));
    return first < 0 ? ready.length : first;
  }
}
