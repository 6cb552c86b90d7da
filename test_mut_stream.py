import pytest
from tests.server.test_server import *
for n in [n for n in globals() if n.startswith("test_")]: del globals()[n]
