"""The launcher: plans a grid of runs, brings it to its end on whatever is idle, and ends with the table.

python run.py [--preset NAME] [axes and options]      plan and run
python run.py status | table | compare | data | cancel      see there
"""

if __name__ == "__main__":
    from utils.interruption import interrupt_quietly, leave

    interrupt_quietly()
    from utils.launch.cli import main

    leave(main())
