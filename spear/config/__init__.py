"""The configuration of a host: read from file, environment and flags by one schema, and checked."""

from ._build import deployment_settings as deployment_settings
from ._build import process_settings as process_settings
from ._build import source_file as source_file
from ._build import target_settings as target_settings
from ._check import check_configuration as check_configuration
from ._check import read_token as read_token
from ._check import split_listen as split_listen
from ._faults import Faults as Faults
from ._instruments import check_instruments as check_instruments
from ._instruments import make_instruments as make_instruments
from ._load import Loaded as Loaded
from ._load import load_configuration as load_configuration
from ._runtimes import make_runtimes as make_runtimes
from ._runtimes import make_strategies as make_strategies
from ._schema import Configuration as Configuration
from ._schema import FunctionConfiguration as FunctionConfiguration
from ._schema import HostConfiguration as HostConfiguration
from ._show import show_as_json as show_as_json
from ._show import show_as_toml as show_as_toml
from ._sources import Flags as Flags
from ._sources import flag_of as flag_of
from ._sources import variable_of as variable_of
from ._values import fields as fields
