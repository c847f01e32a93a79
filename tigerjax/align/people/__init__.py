"""The part of people in a round: the queue, their labels, Label Studio, how far they agree."""
