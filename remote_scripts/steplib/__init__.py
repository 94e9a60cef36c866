"""What the shipped steps share. Needs numpy and pydicom (interpreter.py), numpy and matplotlib (moquisim.py).

report      exit codes, MQI_PROGRESS, MQI_ERROR
parameters  the step's parameters, validated
dicom       attributes of a DICOM item, with errors that name the attribute and its tag
find_plan   which of the inputs is the RT Ion Plan
plan        RT Ion Plan -> beams, layers, spots
deliveries  the delivery records among the inputs
delivery_log   how a room's PTN log is to be read: part of its machine file
ptn_files, ptn_spots   PTN log -> layers -> spots
treatment_record       RT Ion Beams Treatment Record -> spots
delivered_csv          CSV -> spots
delivered   all deliveries of a beam -> what it delivered
spot_table  beam_<number>.csv, delivered_<number>.csv
spot_check, spot_figures   delivered against planned spots
moqui_log   the samples in moqui's layout
range_shifter  what of a range shifter is in the beam
tables      beams.json and beam_<number>.csv: the interface between the two steps
pstar       ranges and stopping powers of protons in water
bragg       analytic depth dose in water
result      curve -> R80, R90, checks
picture     depth_dose.png
"""
