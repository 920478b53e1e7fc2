"""Traffic for the demo: news-like texts, at the rate of a day with a dinner hour. Only the standard library is used."""
