"""The auditor stores sealed suites, charges a budget for every answer, and returns pass or fail.

The auditor never imports the lab, and the lab never imports the auditor. They exchange only the
messages of ``stagezero.door``. The command line imports this package to run an auditor; no other
package does.
"""
