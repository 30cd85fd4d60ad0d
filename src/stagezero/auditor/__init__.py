"""The wing that answers: sealed suites, a meter, verdicts. It never imports the lab, and the lab never imports it."""
