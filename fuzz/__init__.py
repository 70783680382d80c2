"""Harnesses that try to make a store lose a job: see docs/reliability.md.

Each harness is a module with ``run(seconds, seed)``: ``simulate``, ``small_worlds``, ``interleavings``, ``damage`` and
``salvage`` on the simulated disk, ``kill``, ``threads``, ``syscalls`` and ``powercut`` on the real one, ``hostile`` on
bytes. ``mutants`` plants the bugs in ``defects`` and runs the harnesses against them. The rest is what these
need:

- ``sim_script``, ``sim_player``, ``sim_readers``, ``sim_damage``, ``shrink``: of the simulation;
- ``sequences``, ``disk_states``: of the small worlds; ``stores``: the stores that are damaged;
- ``lives``, ``past``, ``writer``, ``faulted``, ``disks``, ``tools``, ``workers``: of the processes that are killed;
- ``hostile_targets``, ``hostile_files``, ``corpus``: of the hostile bytes;
- ``harness``, ``ledger``: of all.
"""
