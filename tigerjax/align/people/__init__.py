"""People in a round: the questions to them, their labels, Label Studio, and how far they agree."""
