// The scale of a threshold: where a value is drawn, and with how many digits it is written.

import { decimals, plain } from "./page.js";

const SMALLEST = 1e-5; // doubts below are drawn at the end of the scale

/**
 * A scale as the server describes it. Its `doubt` is how far a value is from the surest there is: 0 for no doubt at all.
 * What happens near 0 matters most, so scales are logarithmic in the doubt, but where only a few values can occur.
 */
export class Scale {
  constructor({ surest, farthest, is_even: isEven }) {
    const way = farthest - surest;
    Object.assign(this, { surest, sign: Math.sign(way), largest: Math.abs(way), isEven });
  }

  /** Where a value is drawn: the larger, the nearer to no doubt. */
  place(value) {
    const doubt = this.sign * (value - this.surest);
    return this.isEven ? -doubt : -Math.log10(Math.min(Math.max(doubt, SMALLEST), this.largest));
  }

  /** The value at a place, to four digits of its doubt. */
  value(place) {
    const doubt = Number((this.isEven ? -place : 10 ** -place).toPrecision(4));
    return Number((this.surest + this.sign * doubt).toPrecision(12));
  }

  /** A value as text, with three digits of its doubt: 0.0889, 0.99987. */
  write(value) {
    return plain(value, decimals(value - this.surest));
  }

  /** From the threshold that never leaves to the one that leaves first. */
  get ends() {
    return this.isEven ? [0, -this.largest] : [-Math.log10(SMALLEST), -Math.log10(this.largest)];
  }
}
