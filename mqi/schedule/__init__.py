"""How the scheduler of this computer runs mqi: what it should hold, what it does hold, and the difference.

`order.py` and `place.py` say what is wanted, `task_scheduler.py`, `systemd.py` and `cron.py` render and
compare it (pure); `with_*.py` put it into the scheduler and read it back, through `programs.py`.
"""
