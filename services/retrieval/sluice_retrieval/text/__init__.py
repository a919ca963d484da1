"""Words, terms and weights: what search by words is made of."""
