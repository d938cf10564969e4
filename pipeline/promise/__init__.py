"""The promise of accuracy: coin, periods, statistics, certificates, and the choice of the doubt
threshold.
"""
