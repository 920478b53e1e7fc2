"""Samples of the traffic and the promise that is tested on them: how many, how far, what is certified, what broke."""

from __future__ import annotations

from service.metrics.series import Series, or_nan


class PromiseMetrics:
    """The series of samples and promises. They are there, at 0 or NaN, also where nothing is sampled or promised."""

    def __init__(self, series: Series) -> None:
        self._samples = series.counter("ner_promise_samples", "Sentences of the traffic that were run to full depth")
        self._alarms = series.counter(
            "ner_promise_alarms", "Alarms: a certified level was proven to break the promise, and went out of force"
        )
        self._probability = series.gauge(
            "ner_promise_sample_probability", "Probability with which the next sentence is sampled"
        )
        self._buffer = series.gauge("ner_promise_buffer_bytes", "What samples that wait for their run take")
        self._uncovered = series.gauge(
            "ner_promise_uncovered_sentences",
            "Sentences that could not be sampled, since the buffer was full: nothing that is measured holds for them",
        )
        self._wanted = series.gauge("ner_promise_max_disagreement", "The disagreement that is promised; NaN for none")
        self._certified = series.gauge(
            "ner_promise_certified_levels", "Levels that are certified, the safest first; at 0 full depth alone is"
        )
        self._is_kept = series.gauge(
            "ner_promise_served_is_certified",
            "0 while what is served is neither certified for what is promised nor full depth, else 1",
        )
        bounds = series.gauges(
            "ner_promise_disagreement_bound",
            "95 % bounds of the disagreement of the policy in force with full depth on the traffic since the start; "
            "NaN where it is not measured",
            "bound",
        )
        self._lower, self._upper = bounds("lower"), bounds("upper")
        self._labelled = series.counter(
            "ner_feedback_sentences", "Sentences with their right entities, of POST /feedback, that were counted"
        )
        self._labelled_waiting = series.gauge(
            "ner_feedback_waiting_sentences", "Those that wait for idle time to be counted", across="sum"
        )
        gold_f1 = series.gauges(
            "ner_feedback_f1",
            "F1 against the right entities of POST /feedback, a fraction; NaN where it is not known",
            "level",
        )
        self._gold_in_force, self._gold_full_depth = gold_f1("in_force"), gold_f1("full_depth")

    def sample_run(self) -> None:
        """Count a sample that was run."""
        self._samples.inc()

    def labelled_counted(self) -> None:
        """Count a labelled sentence that was counted."""
        self._labelled.inc()

    def alarm_raised(self) -> None:
        """Count an alarm."""
        self._alarms.inc()

    def set_sampling(self, *, probability: float, buffer_bytes: int, uncovered: int) -> None:
        """Show how is sampled; called before every scrape."""
        self._probability.set(probability)
        self._buffer.set(buffer_bytes)
        self._uncovered.set(uncovered)

    def set_promise(self, *, max_disagreement: float | None, certified: int, served_is_certified: bool) -> None:
        """Show what is promised, and what is certified for it; called before every scrape."""
        self._wanted.set(or_nan(max_disagreement))
        self._certified.set(certified)
        self._is_kept.set(served_is_certified)

    def set_gold(self, *, waiting: int, in_force: float | None, full_depth: float | None) -> None:
        """Show the labelled sentences that wait, and F1 against gold; called before every scrape."""
        self._labelled_waiting.set(waiting)
        self._gold_in_force.set(or_nan(in_force))
        self._gold_full_depth.set(or_nan(full_depth))

    def set_disagreement(self, bounds: tuple[float, float] | None) -> None:
        """Show the bounds of the disagreement of the policy in force; None where it is not measured."""
        lower, upper = bounds or (None, None)
        self._lower.set(or_nan(lower))
        self._upper.set(or_nan(upper))
