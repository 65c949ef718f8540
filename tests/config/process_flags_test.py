"""The flags that connect processes, and what bad ones are told."""

import functools
import re

import pytest

from vaegan_jax.config.process_flags import Processes, parse_flags
from vaegan_jax.errors import UserError


@pytest.mark.parametrize(
  ('given', 'told'),
  (
    (('', '2', '0'), '--coordinator must be given too'),
    (('a:1', '', ''), '--num_processes and --process_id must be given too'),
    (('a', '2', '0'), '--coordinator=a must be a host and a port'),
    (('a:b', '2', '0'), '--coordinator=a:b must be a host and a port'),
    (('a:99999', '2', '0'), 'a port from 1 to 65535'),
    (('a:1', '0', '0'), '--num_processes=0 must be a whole number from 1'),
    (('a:1', 'two', '0'), '--num_processes=two must be a whole number'),
    (('a:1', '2', '2'), '--process_id=2 must be from 0 to 1, one less than'),
    (('a:1', '2', '-1'), '--process_id=-1 must be from 0 to 1'),
  ),
)
def test_flags_that_connect_nothing_are_told(given, told):
  with pytest.raises(UserError, match=re.escape(told)):
    parse_flags(*given, launched=False)


def test_the_coordinator_may_be_in_the_environment(monkeypatch):
  parse = functools.partial(parse_flags, launched=False)
  assert parse('', '', '') is None
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'a:1')
  assert parse('', '2', '1') == Processes('a:1', 2, 1)
  assert parse('b:2', '2', '1') == Processes('b:2', 2, 1)
  with pytest.raises(UserError, match='--num_processes and --process_id'):
    parse('', '', '')
  assert parse_flags('', '', '', launched=True) is None
