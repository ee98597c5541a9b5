# Starts the server with the keys of the credentials file that its clients use, and a bucket `regraft`.
set -eu
credentials=${AWS_SHARED_CREDENTIALS_FILE:-/run/secrets/aws_credentials}
AWS_ACCESS_KEY_ID=$(sed -n 's/^aws_access_key_id *= *//p' "$credentials")
AWS_SECRET_ACCESS_KEY=$(sed -n 's/^aws_secret_access_key *= *//p' "$credentials")
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
exec weed mini -dir=/var/lib/s3 -ip=127.0.0.1 -ip.bind=0.0.0.0 -s3.port=8333 -bucket=regraft \
    -webdav=false -admin.ui=false -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0
