"""How one answer is made: admit → plan → ground → attempt → relay → settle."""
