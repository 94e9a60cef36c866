"""The agent: everything that mqi does on an execution host goes through here.

Standard library only, Python 3.8 or newer. It is started as a folder, `python -I <folder> request|run|runner`,
does one thing and ends; nothing stays resident but the local queue's runner while there is work.
"""
