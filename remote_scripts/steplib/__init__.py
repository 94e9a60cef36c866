"""What the shipped steps share. Needs numpy, pydicom, matplotlib and PyYAML (mqi[steps]).

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
beam_model  machines/<room>.yaml: beam model, range shifters, CT scanners
geometry    IEC 61217 angles and DICOM patient coordinates
spots       the tables of planned and delivered spots as arrays
beam_setup  how a beam stands to the patient and what is in its way
phantom, ct_series   what the beam goes into
engines/    the dose engines: MCsquare, moqui
simulation  the story of moquisim.py
dose_grid   a dose and its uncertainty on a grid, and its file
dose_checks what a dose must pass
depth, depth_picture   depth dose: computed, expected, drawn
rtdose      a dose as RT Dose
pstar       ranges and stopping powers of protons in water
bragg       analytic depth dose in water
"""
