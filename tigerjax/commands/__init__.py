"""The functions behind `tigerjax COMMAND`: each parses nothing and computes nothing, it calls a room."""
