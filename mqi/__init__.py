"""mqi, the MQI Communicator: recomputes the dose that a proton machine delivered."""

__version__ = "0.1.0"
