"""Traffic to look at: news-like texts, sent at the rate of a day with its dinner hour. Standard library only."""
