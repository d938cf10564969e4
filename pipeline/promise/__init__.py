"""The promise of accuracy: coin, periods, statistics, certificates, and calibration of doubt."""
