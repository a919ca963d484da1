"""Budgets: what keeps retries and hedges from doubling the load of a vendor that is overloaded already."""


class Budget:
    """Lets extra calls be at most a share of the ordinary ones.

    Each ordinary call earns `share` of an extra one, and what is earned is kept up to `reserve`, with which it begins:
    so a single failure is always tried again, and of a thousand failing calls no more than the share. It needs no clock.
    """

    __slots__ = ("_balance", "_reserve", "_share")

    def __init__(self, share: float, reserve: float) -> None:
        """`share` is a fraction, 0.1 for one extra call in ten; `reserve` is a number of calls."""
        self._share = share
        self._reserve = max(reserve, 1.0) if share > 0 else 0.0
        self._balance = self._reserve

    def earn(self) -> None:
        """Is told of an ordinary call."""
        balance = self._balance + self._share
        self._balance = min(self._reserve, balance)

    def affords(self) -> bool:
        """Whether there is enough for one extra call."""
        # Tenths do not add up exactly.
        return self._balance > 0.999_999

    def spend(self) -> bool:
        """Pays for one extra call. Returns False, and pays nothing, if there is not enough."""
        if not self.affords():
            return False
        self._balance -= 1.0
        return True
