"""SeqIO task and mixture registrations, and the embedded tiny data; nothing else lives here."""
