@echo off
rem `make run` and `make test` on Windows, which has no make; in PowerShell: .\make run
where py >nul 2>nul && (py -3 "%~dp0.ci\make.py" %*) || python "%~dp0.ci\make.py" %*
