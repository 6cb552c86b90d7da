"""Gas: what a volume comes to in energy, by the rule that gas bills follow.

kWh = m3 x 1.02264 x calorific value in MJ/m3 / 3.6. The factor 1.02264 brings a volume as metered
to standard temperature and pressure where the meter does not (Gas (Calculation of Thermal Energy)
Regulations 1996). The calorific value differs by day and by local distribution zone, and about
39.5 MJ/m3 is usual; whoever sends volumes says one that holds for all of them.

All numbers are whole: dm3 (a thousandth of a m3, the last digit of a smart gas meter), kJ/m3, the
factor in 100,000ths. Only the energy is rounded, half up to whole Wh, half hour by half hour; the
volume it was made of stays in the log, so nothing is lost and an auditor makes the same energy.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from spine.errors import Invalid, Reason

STANDARD_FACTOR_E5: Final = 102_264
# Beyond any gas in a public network, and small enough that Wh fit in 32 bits.
CALORIFIC_VALUE_KJ_M3_MAX: Final = 60_000
FACTOR_E5_MAX: Final = 110_000
VOLUME_DM3_MAX: Final = 100_000_000
_E5_KJ_DM3_IN_WH: Final = 360_000_000


class Conversion(NamedTuple):
    """How volumes become energy. Correction factors of single sites go in `factor_e5`."""

    calorific_value_kj_m3: int
    factor_e5: int = STANDARD_FACTOR_E5

    @property
    def sane(self) -> bool:
        """Whether any gas could be so."""
        value_fits = 0 < self.calorific_value_kj_m3 <= CALORIFIC_VALUE_KJ_M3_MAX
        return value_fits and 0 < self.factor_e5 <= FACTOR_E5_MAX

    def wh(self, volumes_dm3: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The energy of volumes of 0 to `VOLUME_DM3_MAX`; any shape."""
        exact = volumes_dm3.astype(np.int64) * self.calorific_value_kj_m3 * self.factor_e5
        return ((exact + _E5_KJ_DM3_IN_WH // 2) // _E5_KJ_DM3_IN_WH).astype(np.int32)


def conversion_of(calorific_value: str) -> Conversion:
    """The conversion by a calorific value in MJ/m3, such as `39.5`; FIELD_INVALID if it is none."""
    if re.fullmatch(r"\d{2}(\.\d{1,3})?", calorific_value, re.ASCII):
        made = Conversion(int(Decimal(calorific_value) * 1000))
        if made.sane:
            return made
    message = "a calorific value is some 39.5 MJ/m3, with at most three decimals"
    raise Invalid(Reason.FIELD_INVALID, message, field="calorific_value")
