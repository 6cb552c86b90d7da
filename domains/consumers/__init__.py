"""Consumers: who lives at a meter, who supplies and serves it, what its occupier consents to."""
